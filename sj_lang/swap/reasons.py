"""Why no new node can stand in a place."""

from __future__ import annotations

from torch import nn

from sj_lang import compat
from sj_lang.build import Make
from sj_lang.swap.watch import Feeder, Seen

LAYOUTS = {"m": "[T, B, C, ...]", "s": "[B, C, ...]"}
AXES = {"m": 2, "s": 1}


def reason_of_call(net: nn.Module, name: str, seen: Seen) -> str:
    """Why a node that is called like this stays; "" if it may go."""
    for container_name, container in _parents(net, name):
        if isinstance(container, compat.recurrent_containers()):
            return f"in the recurrent {type(container).__name__} '{container_name}' its output is fed back to it"
    if seen.methods:
        return f"the net calls its {seen.methods[0]} or forward, and not the node itself"
    if not seen.inputs:
        return "the example did not reach it"
    if seen.other:
        return f"it returns a {seen.other}, and a node returns its spikes alone"
    return ""


def reason_of_input(seen: Seen, mode: str, make: Make) -> str:
    """Why no node with one set of parameters per channel can take these inputs; "" if one can."""
    axis = AXES[mode]
    shapes = [tuple(x.shape) for x in seen.inputs]
    flat = [shape for shape in shapes if len(shape) <= axis]
    if flat:
        return f"its input {list(flat[0])} has no channel axis ({LAYOUTS[mode]})"
    channels = {shape[axis] for shape in shapes}
    if len(channels) > 1:
        return f"it was fed {' and '.join(map(str, sorted(channels)))} channels"
    for shape, feeder in zip(shapes, seen.feeders, strict=True):
        if feeder and (reason := _elsewhere(shape, feeder, mode)):
            return reason
    if mode == "s" and not make.traits["steps"]:
        return f"it runs step by step, and {make.name} has no single-step mode"
    return ""


def reason_of_output(seen: Seen, node: nn.Module) -> str:
    """Why what the old node returned is nothing that the new one can fire; "" if it can."""
    low, high = getattr(node, "spike_range", (0, getattr(node, "levels", 1)))
    if not seen.whole:
        return f"its output is not spikes: it has fractions, from {seen.low:.3g} to {seen.high:.3g}"
    if seen.low < low or seen.high > high:
        return f"it fires from {seen.low:g} to {seen.high:g}, and {type(node).__name__} from {low} to {high}"
    return ""


def _elsewhere(shape: tuple[int, ...], feeder: Feeder, mode: str) -> str:
    """Whether the features of the module before it lie on a later axis than a node's channels."""
    axis, features = AXES[mode], feeder.features
    later = [place for place in range(axis + 1, len(shape)) if shape[place] == features]
    if shape[axis] == features or len(later) != 1:
        return ""
    where = f"the {features} features of {feeder.name} are axis {later[0]} of its input {list(shape)}"
    if mode == "s" and later == [2]:
        return f'{where}, but it is in step_mode "s", whose channels are axis 1; set it to "m"'
    return f"{where}, and a node's channels are axis {axis}; move them there around the node"


def _parents(net: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The modules around a place, outermost first."""
    parts = name.split(".")[:-1]
    return [(".".join(parts[: i + 1]), net.get_submodule(".".join(parts[: i + 1]))) for i in range(len(parts))]
