"""A neuron that gives nothing but `step`: all else must come from the base class."""

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.neuron import Node, State


class Leaky(Node):
    """v = v / 2 + g x, a spike where v >= 1; counts its valid steps."""

    def __init__(self, *, channels: int, **options: Any) -> None:
        super().__init__(channels=channels, **options)
        self.g = nn.Parameter(torch.ones(channels))

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"v": tuple(shape), "count": (shape[0], 1)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        gain = self.g.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))
        v = state["v"] / 2 + gain * x
        return (v >= 1).to(v), {"v": v.clone(), "count": state["count"] + 1}, v


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
