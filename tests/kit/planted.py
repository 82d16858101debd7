"""Where the planted faults are noted: each a copy of the toy node, with the check that names it."""

from collections.abc import Callable
from typing import Any

#: name of a faulty node -> the node, the check that names it, what its message says (a regular
#: expression), what it declares other than "everything"
FAULTS: dict[str, tuple[type, str, str, dict[str, bool]]] = {}


def fault(check: str, says: str = "", **declared: bool) -> Callable[[type], Any]:
    """Note a subclass of Toy as faulty."""

    def plant(node: type) -> type:
        FAULTS[node.__name__] = (node, check, says, declared)
        return node

    return plant
