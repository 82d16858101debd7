"""Integer firing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
