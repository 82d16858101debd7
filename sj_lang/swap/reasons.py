"""Why no new node can stand in a place."""

from __future__ import annotations

import inspect
import math

from torch import nn

from sj_lang import compat
from sj_lang.build import Make
from sj_lang.swap.watch import Seen


def reason_of_call(net: nn.Module, name: str, seen: Seen) -> str:
    """Why a node that is called like this is not replaced; "" if it can be."""
    for container_name, container in _parents(net, name):
        if isinstance(container, compat.recurrent_containers()):
            return f"in the recurrent {type(container).__name__} '{container_name}' its output is fed back to it"
    if seen.methods:
        return f"the net calls its {seen.methods[0]} or forward, and not the node itself"
    if not seen.inputs:
        return "the example did not reach it"
    if not all(bool(x.isfinite().all()) for x in seen.inputs):
        return (
            "the example hands it NaN or infinity, which shows nothing of it; if running statistics are still empty, "
            "train a step and swap again"
        )
    if seen.other:
        return f"it returns a {seen.other}, and a node returns its spikes alone"
    return ""


def reason_of_threshold(old: nn.Module) -> str:
    """Why a node that can never fire is not replaced; "" if it can fire."""
    threshold = getattr(old, "v_threshold", None)
    if isinstance(threshold, float) and not math.isfinite(threshold):
        return f"its threshold is {threshold}, so it never fires: it is read for its potential"
    return ""


def reason_of_mode(mode: str, make: Make) -> str:
    """Why a neuron cannot be called in this step mode; "" if it can."""
    if mode == "s" and not make.traits["steps"]:
        return f"it runs step by step, and {make.name} has no single-step mode"
    return ""


def reason_of_use(seen: Seen, node: nn.Module) -> str:
    """Why the new node cannot take what the old one took, or fire what it fired; "" if it can."""
    kind = type(node)
    if unknown := sorted(seen.keywords - inspect.signature(kind.forward).parameters.keys()):
        return f"the net calls it with {unknown[0]}=, which {kind.__name__} does not take"
    low, high = getattr(node, "spike_range", (0, getattr(node, "levels", 1)))
    if not seen.whole:
        return f"its output is not spikes: it has fractions, from {seen.low:.3g} to {seen.high:.3g}"
    if seen.low < low or seen.high > high:
        return f"it fires from {seen.low:g} to {seen.high:g}, and {kind.__name__} from {low} to {high}"
    return ""


def _parents(net: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The modules around a place, outermost first."""
    parts = name.split(".")[:-1]
    return [(".".join(parts[: i + 1]), net.get_submodule(".".join(parts[: i + 1]))) for i in range(len(parts))]
