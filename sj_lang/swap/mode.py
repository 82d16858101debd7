"""Whether a node takes a step per call or a sequence, by its class or by a trial."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sj_lang import compat
from sj_lang.errors import describe

#: constant inputs, sizes of random ones, and what takes the place of one slice: below, around and
#: above usual thresholds
_LEVELS = (0.3, 0.6, 1.2, 2.0, 8.0)
_SIZES = (0.7, 1.5, 5.0)
_CHANGES = (-1000.0, 0.0, 8.0)
_TAKES = {"s": "a step", "m": "a sequence"}
_ASK = 'pass step_mode="s" (a step per call) or "m" (a sequence)'


def step_mode(old: nn.Module, x: Tensor, keyword: str, asked: str | None) -> tuple[str, str]:
    """ "s" or "m" and ""; or "" and why it is not clear.

    old: as it was before the example. x, keyword: its first input, and the name by which it was
    handed over. asked: the mode of classes that do not say it themselves; a trial that clearly says
    something else is right.
    """
    if mode := compat.step_mode(old):
        return mode, ""
    try:
        with torch.no_grad():
            mode, reason, sure = _tried(Trial(old, keyword), x.detach().clone())
    except Exception as error:  # foreign code that is fed what it does not expect
        mode, sure = "", False
        reason = f"its step mode is not clear, as a trial of it failed ({describe(error)}); {_ASK}"
    if not asked or (sure and not mode):
        return mode, reason
    if sure and mode != asked:
        return "", f'a trial shows that it takes {_TAKES[mode]} per call, step_mode="{mode}", not "{asked}"'
    return asked, ""


class Trial:
    """Runs fresh copies of a node."""

    def __init__(self, node: nn.Module, keyword: str) -> None:
        self.node, self.keyword = copy.deepcopy(node).eval(), keyword

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The last output of calls one after the other."""
        node = copy.deepcopy(self.node)
        for x in inputs:
            output = node(**{self.keyword: x}) if self.keyword else node(x)
        if not isinstance(output, Tensor):
            raise TypeError(f"it returns a {type(output).__name__}")
        return output


def _tried(trial: Trial, x: Tensor) -> tuple[str, str, bool]:
    """The mode, or "" and why there is none, and whether that is sure.

    Time is the axis on which a step changes the next; without one, a call changes the next.
    """
    if len(x) == 1:
        x = torch.cat((x, x))
    if not torch.equal(trial(x.fill_(1.2)), trial(x)):
        return "", f"its output is random, so its step mode is not clear; {_ASK}", False
    if x.dim() > 1 and x.shape[1] > 1 and any(changed.any() for changed in _changed_after(trial, x, 1)):
        return "", f"one entry of axis 1 of its input {list(x.shape)} changes the next; a node's time is axis 0", True
    changed = torch.stack([change.flatten(1).any(1) for change in _changed_after(trial, x, 0)]).any(0)
    if changed[0]:
        return "m", "", True
    if changed.any():
        return "", f"axis 0 of its input {list(x.shape)} seems to hold time and batch together; fold them apart", True
    for base in _inputs(x):
        alone = trial(base)
        before = [torch.full_like(x, change) for change in _CHANGES]
        for other in (*before, base.flatten().flip(0).view_as(base)):
            if not torch.equal(trial(other, base), alone):
                return "s", "", True
    reason = f"its step mode is not clear: no step of its input changes a later one, and no call the next; {_ASK}"
    return "", reason, False


def _inputs(x: Tensor) -> Iterator[Tensor]:
    """The input of the trials, in the shape of x."""
    yield from (torch.full_like(x, level) for level in _LEVELS)
    generator = torch.Generator().manual_seed(0)
    for size in _SIZES:
        yield (size * torch.rand(x.shape, generator=generator)).to(x)


def _changed_after(trial: Trial, x: Tensor, axis: int) -> Iterator[Tensor]:
    """Which outputs change if the first slice along the axis does, that axis first; per trial."""
    for base in _inputs(x):
        output = trial(base)
        if output.shape != x.shape:
            raise ValueError(f"an input {list(x.shape)} gives an output {list(output.shape)}")
        for change in _CHANGES:
            other = base.clone()
            other.select(axis, 0).fill_(change)
            yield (trial(other) != output).movedim(axis, 0)[1:]
