"""The axis of a node's input that its channels are on, as the modules before and after it show.

Axes are counted along `[T, B, ...]` in single-step mode too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from sj_lang.swap.probes import run_marked
from sj_lang.swap.watch import Example, Feeder, Seen

Shape = tuple[int, ...]
Marked = Callable[[Feeder], frozenset[int]]

_WRITE = "swap again with axis=2, or axis=-1 for the last one, or give two lengths, example=[x1, x2]"


@dataclass(frozen=True)
class Channels:
    """axis: of the new node. size: how many. why: what says so. note: what looks odd. reason: why
    there is no such axis."""

    axis: int = 2
    size: int = 0
    why: str = ""
    note: str = ""
    reason: str = ""


class Marks:
    """Runs the example with NaN in one feature of a module, to see where that arrives."""

    def __init__(self, net: nn.Module, example: Example, nodes: Sequence[nn.Module]) -> None:
        self._net, self._example, self._nodes = net, example, nodes
        self._arrived: dict[Feeder, dict[int, frozenset[int]]] = {}

    def of(self, node: nn.Module, mode: str) -> Marked:
        """feeder -> the axes of this node's first input along which the feature has one place."""

        def marked(feeder: Feeder) -> frozenset[int]:
            if feeder not in self._arrived:
                self._arrived[feeder] = run_marked(self._net, self._example, feeder, self._nodes)
            single = int(mode == "s")
            return frozenset(axis + single for axis in self._arrived[feeder].get(id(node), ()))

        return marked


def channels_of(seen: Seen, mode: str, asked: int | None, marked: Marked) -> Channels:
    """The axis that the channels of this node are on. asked: the axis that the user wants."""
    single = (1,) if mode == "s" else ()
    shapes = [single + tuple(x.shape) for x in seen.inputs]
    shape = shapes[0]
    for feeder in seen.feeders[0][:1]:
        if not single and _on_the_batch(feeder, shape) and marked(feeder) == {1}:
            where = f"the {feeder.features} features of {feeder.name} are axis 1 of its input {list(shape)}"
            return Channels(reason=f"{where}, which is the batch in [T, B, C, ...]; is axis 0 time and batch together?")
    if asked is not None:
        return _asked(shapes, seen, asked)
    if any(len(other) < 3 for other in shapes):
        flat = next(other for other in shapes if len(other) < 3)
        layout = "[B, C, ...]" if single else "[T, B, C, ...]"
        return Channels(reason=f"its input {list(flat[len(single) :])} has no channel axis ({layout})")
    dims = min(map(len, shapes))
    steady = [axis for axis in range(2, dims) if len({other[axis] for other in shapes}) == 1]
    if not steady:
        sizes = " and ".join(map(str, sorted({other[2] for other in shapes})))
        return Channels(reason=f"it was fed {sizes} channels")
    changes = len(steady) < dims - 2
    if dims == 3 and len(shape) == 3:
        return Channels(2, shape[2])

    take = partial(_taken, shapes, single)
    feeders = seen.feeders[0]
    fits = [axis for axis in steady if feeders and shape[axis] == feeders[0].features]
    said = f"the {feeders[0].features} features of {feeders[0].name}" if feeders else ""
    if len(fits) == 1 and _unchanged(feeders[0], shape, fits[0]):
        return take(fits[0], said)
    for feeder in feeders if not changes or len(fits) != 1 else ():
        if axes := sorted(marked(feeder).intersection(steady)):
            why = f"the {feeder.features} features of {feeder.name}"
            if len(axes) == 1:
                return take(axes[0], why)
            if 2 in axes:
                return take(2, why, f"{why} lie on its axes {_listed(axes)}; axis 2 is taken")
            return Channels(reason=f"{why} lie on axes {_listed(axes)} of its input {list(shape)}; {_WRITE}")
    if len(fits) == 1:
        return take(fits[0], said)
    if not fits and seen.reader is not None:
        fits = [axis for axis in steady if shape[axis] == seen.reader.features]
        said = f"the {seen.reader.features} inputs of {seen.reader.name}"
        if len(fits) == 1:
            return take(fits[0], said)
    if len(fits) > 1:
        return Channels(reason=f"axes {_listed(fits)} of its input {list(shape)} all fit {said}; {_WRITE}")
    if len(steady) == 1:
        return take(steady[0], "the axis whose size stays the same" if changes else "")
    axis = 2 if 2 in steady else steady[0]
    note = f"nothing before or after it says which axis of {list(shape)} its channels are; axis {axis} is taken"
    return take(axis, "", note)


def _taken(shapes: Sequence[Shape], single: Shape, axis: int, why: str, note: str = "") -> Channels:
    """This axis, unless single-step mode, whose channels are axis 1, contradicts it."""
    shape = shapes[0]
    if single and axis == 3 and len(shape) == 4 and len(shapes) == 1:  # [T, B, C] or [B, L, D]?
        fed = f"{why or 'its channels'} are axis 2 of its input {list(shape[1:])}"
        return Channels(
            reason=f'{fed}, but it is in step_mode "s", whose channels are axis 1; set it to "m", '
            "or write axis=-1 if the input is a single step [B, L, D]"
        )
    last = axis == len(shape) - 1 and axis > 2
    return Channels(-1 if last else axis, shape[axis], why, note)


def _asked(shapes: Sequence[Shape], seen: Seen, asked: int) -> Channels:
    """The axis that the user wants, if each input has it and no module clearly says another one."""
    sizes, shape = set(), shapes[0]
    for other in shapes:
        axis = asked + len(other) if asked < 0 else asked
        if not 2 <= axis < len(other):
            return Channels(reason=f"its input {list(seen.inputs[0].shape)} has no axis {asked} after time and batch")
        sizes.add(other[axis])
    if len(sizes) > 1:
        return Channels(reason=f"it was fed {' and '.join(map(str, sorted(sizes)))} channels on axis {asked}")
    for feeder in seen.feeders[0][:1]:
        fits = [axis for axis in range(2, len(shape)) if shape[axis] == feeder.features]
        if len(fits) == 1 and fits[0] not in (asked, asked + len(shape)) and _unchanged(feeder, shape, fits[0]):
            where = f"the {feeder.features} features of {feeder.name} are axis {fits[0]} of its input {list(shape)}"
            return Channels(reason=f"{where}, not {asked}; swap it in a call without axis=")
    return Channels(asked, sizes.pop())


def _on_the_batch(feeder: Feeder, shape: Shape) -> bool:
    """Whether a module may have made its features on the axis that is the batch of a sequence."""
    return len(feeder.shape) == len(shape) and feeder.axis == 1 and shape[1] == feeder.features


def _unchanged(feeder: Feeder, shape: Shape, axis: int) -> bool:
    """Whether an input looks like the output of the module, at most pooled, folded or permuted."""
    from_end = len(feeder.shape) - feeder.axis
    if len(shape) - axis == from_end and len(feeder.shape) <= len(shape):
        return True
    inner = len(shape) - 2
    return sorted(shape[2:]) == sorted(feeder.shape[-inner:])


def _listed(axes: Sequence[int]) -> str:
    return " and ".join(map(str, axes))
