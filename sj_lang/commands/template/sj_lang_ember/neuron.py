"""The neuron: its equations, and what it learns."""

import math

import torch
from torch import Tensor, nn

from sj_lang.compat import surrogate
from sj_lang.neuron import Node, State


class Ember(Node):
    """v[t] = d v[t-1] + x[t]; s[t] = 1 if v[t] >= threshold else 0; then v[t] loses threshold s[t].

    channels: size of axis 2 of the input [T, B, C, ...]. decay: d at first, in (0, 1), per channel.
    threshold: in units of the input. surrogate_function: name of a surrogate of SpikingJelly.
    """

    def __init__(
        self,
        *,
        channels: int,
        decay: float = 0.5,
        threshold: float = 1.0,
        surrogate_function: str = "ATan",
        step_mode: str = "m",
    ) -> None:
        super().__init__(channels=channels, step_mode=step_mode)
        if not 0 < decay < 1:
            raise ValueError(f"Ember: decay is {decay}, it must be between 0 and 1")
        logit = math.log(decay / (1 - decay))
        self.decay = nn.Parameter(torch.full((channels,), logit))  # its sigmoid is d
        self.threshold = threshold
        self.surrogate_function = surrogate(surrogate_function)

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"v": tuple(shape)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        d = self.decay.sigmoid().to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        v = d * state["v"] + x
        spike = self.surrogate_function(v - self.threshold)
        spike = torch.where(v.isnan(), v, spike)  # a threshold would hide that something went wrong
        v = v - self.threshold * spike
        return spike, {"v": v}, v
