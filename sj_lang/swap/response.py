"""What a node of an unknown class integrates, as the inputs at which it fires show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sj_lang.swap.mode import Trial

_LARGEST = 64.0
_HALVINGS = 30
#: of the threshold: the predicted one may be off by this share
_NEAR = 0.002
_NEVER_LEAKS = 0.999


def measured(node: nn.Module, x: Tensor, keyword: str, mode: str) -> tuple[float | None, float]:
    """What a step keeps of the potential, None if the node is no leaky integrator, and the input
    at which it fires in its first step.

    node: as it was before the example. x, keyword: its first input, and the name by which it was
    handed over. The leak is the share of an input that is missing at the next step, and a third
    step has to confirm this leak.
    """
    try:
        with torch.no_grad():
            fires = _Fires(Trial(node, keyword), x.detach(), mode)
            first = fires.threshold()
            half = first / 2
            leak = (first - fires.threshold(half)) / half
            third = first * (1 - 0.3 * leak - 0.3 * leak**2)
            near = first * _NEAR
            before = (0.3 * first, 0.3 * first)
            if not 0 <= leak <= 1 + _NEAR or fires(*before, third - near) or not fires(*before, third + near):
                return None, 1.0
    except Exception:  # foreign code that is fed what it does not expect
        return None, 1.0
    return (1.0 if leak > _NEVER_LEAKS else leak), first


class _Fires:
    """Whether most neurons of a node fire in the last of a few steps with these inputs."""

    def __init__(self, trial: Trial, x: Tensor, mode: str) -> None:
        self.trial, self.mode = trial, mode
        self.step = torch.zeros_like(x[:1] if mode == "s" else x[0, :1])
        self.length = max(len(x), 3)

    def __call__(self, *values: float) -> bool:
        steps = [torch.full_like(self.step, value) for value in values]
        if self.mode == "s":
            output = self.trial(*steps)
        else:
            rest = [self.step] * (self.length - len(steps))
            output = self.trial(torch.stack(steps + rest))[len(steps) - 1]
        return bool((output > 0).float().mean() > 0.5)

    def threshold(self, *before: float) -> float:
        """The smallest input after these at which it fires; raises ValueError if there is none."""
        low, high = 0.0, _LARGEST
        if self(*before, low) or not self(*before, high):
            raise ValueError("no input between makes it begin to fire")
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self(*before, middle) else (middle, high)
        return high
