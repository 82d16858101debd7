"""The conformance kit: what every neuron of sj_lang promises, as checks that run on any node.

    from sj_lang.testing import check_node

    def test_my_neuron():
        check_node(lambda channels: MyNeuron(channels=channels),
                   traits=dict(causal=True, steps=True, carries_state=True, takes_mask=True,
                   any_length=True))

Each check is also a function of a `Subject`, found by name in `CHECKS`; what a failure says begins
with that name. Needs torch and SpikingJelly, no test framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sj_lang.testing.kit import CHECKS, Check, CheckFailed, NodeFailed, Report, Subject, Traits, check_node

__all__ = ["CHECKS", "Check", "CheckFailed", "NodeFailed", "Report", "Subject", "Traits", "check_node"]


def __getattr__(name: str) -> Any:
    """Import the kit when it is first asked for: pytest always loads the fixture beside it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sj_lang.testing import kit

    return getattr(kit, name)
