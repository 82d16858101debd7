"""From potentials to spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang_neurons import surrogates


class Rect(nn.Module):
    """S = clip(round(H), 0, n), with gradient 1 where 0 <= H <= n and 0 elsewhere. Halves are rounded to even.

    As with SpikingJelly's surrogates, `set_spiking_mode(False)` gives the smooth form, here clip(H, 0, n), whose
    gradient is the same: for numerical gradient checks.
    """

    def __init__(self, n: int, spiking: bool = True) -> None:
        super().__init__()
        self.n = n
        self.spiking = spiking

    def set_spiking_mode(self, spiking: bool) -> None:
        self.spiking = spiking

    def forward(self, h: Tensor) -> Tensor:
        return _Rect.apply(h, self.n) if self.spiking else h.clamp(0, self.n)

    def extra_repr(self) -> str:
        return f"n={self.n}, spiking={self.spiking}"


@dataclass(frozen=True)
class Firing:
    """What a kernel of DSN is to do with its potentials. function: `Rect`, or a surrogate of SpikingJelly's kind.

    threshold: of a surrogate. potentials: they are wanted beside the spikes.
    """

    function: nn.Module
    threshold: float
    potentials: bool

    def __call__(self, h: Tensor) -> Tensor:
        if isinstance(self.function, Rect):
            return self.function(h)
        spikes: Tensor = self.function(h - self.threshold)
        return torch.where(h.isnan(), h, spikes)  # a Heaviside would hide them

    @property
    def levels(self) -> int:
        """The largest spike, if it is `Rect` that fires; else 0."""
        return self.function.n if isinstance(self.function, Rect) and self.function.spiking else 0

    def fused(self) -> tuple[int, float] | None:
        """How a CUDA kernel fires: `surrogates`' number for it, and its alpha. None: outside the kernel."""
        if isinstance(self.function, Rect):
            return (surrogates.RECT, float(self.levels)) if self.levels else None
        return surrogates.heaviside(self.function)

    def why_not_fused(self) -> str:
        """Why a fused kernel is refused; "" if it is not."""
        return "" if isinstance(self.function, Rect) else surrogates.why_not(self.function)


class _Rect(torch.autograd.Function):
    @staticmethod
    def forward(h: Tensor, n: int) -> Tensor:
        return h.round().clamp_(0, n)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.n = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (h,) = ctx.saved_tensors
        return grad * ((h >= 0) & (h <= ctx.n)), None
