"""Which modules of a network are to be replaced."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn

from sj_lang import compat
from sj_lang.errors import UserError

#: what neurons of other code call their threshold, leak, state and surrogate
_MARKS = re.compile(r"v_th|thresh|^tau$|^decay$|^beta$|^mem|^v$|surrogate|^reset$|step_mode")
_LAYERS = re.compile(r"\b(activation_based|clock_driven)\.layer")
_SHOWN = 8


def classes_of(of: Any) -> tuple[type[nn.Module], ...]:
    """The classes of the argument `of`."""
    if of is None:
        return compat.node_classes()
    classes = tuple(of) if isinstance(of, Iterable) and not isinstance(of, str) else (of,)
    wrong = [one for one in classes if not isinstance(one, type)]
    if wrong or not classes:
        raise UserError(f"swap: of={of!r}; expected a class, such as neuron.LIFNode, or several")
    return classes


def neurons_of(net: nn.Module, classes: tuple[type[nn.Module], ...], like: str | None) -> list[tuple[str, nn.Module]]:
    """The neurons of these classes by name; a module in two places is listed twice."""
    if isinstance(net, classes):
        raise UserError(f"swap: the network itself is a {type(net).__name__}; build the new node instead")
    neurons = [
        (name, module) for name, module in net.named_modules(remove_duplicate=False) if isinstance(module, classes)
    ]
    inner = [f"{name}." for name, _ in neurons]
    neurons = [(name, module) for name, module in neurons if not name.startswith(tuple(inner))]
    if not neurons:
        names = ", ".join(sorted({c.__name__ for c in classes}))
        raise UserError(f"swap: {type(net).__name__} has no neuron of {names}{_candidates(net)}")
    if like is not None:
        try:
            pattern = re.compile(like)
        except (re.error, TypeError) as error:
            raise UserError(f"swap: like={like!r} is not a valid regular expression: {error}") from error
        chosen = [(name, module) for name, module in neurons if pattern.search(name)]
        if not chosen:
            raise UserError(f"swap: like={like!r} matches none of: {', '.join(name for name, _ in neurons)}")
        return chosen
    return neurons


def _candidates(net: nn.Module) -> str:
    """Other modules that look like neurons, and how to name them."""
    places = defaultdict(list)
    for name, module in net.named_modules():
        kind = type(module)
        if not name or kind.__module__.startswith("torch.") or _LAYERS.search(kind.__module__):
            continue
        names = (*vars(module), *module._parameters, *module._buffers, *module._modules, *vars(kind))
        if any(_MARKS.search(attribute) for attribute in names):
            places[f"{kind.__module__}.{kind.__qualname__}"].append(name)
    if not places:
        return "; of= names other classes"
    listed = [f"{kind} ({len(names)}: {names[0]}, ...)" for kind, names in sorted(places.items())]
    more = "" if len(listed) <= _SHOWN else f" and {len(listed) - _SHOWN} more classes"
    example = next(iter(sorted(places))).rpartition(".")[2]
    return f"; these look like neurons, and of= takes their classes, such as of={example}: " + (
        ", ".join(listed[:_SHOWN]) + more
    )
