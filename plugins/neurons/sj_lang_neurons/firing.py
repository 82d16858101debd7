"""From potentials to spikes: one firing for all neurons, inside a kernel that knows it, else in torch after the kernel.

The numbers are those of `surrogates.cuh` and `jit.py`: the macro FIRE, or `kind`, and its parameter alpha, or `level`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sj_lang.operators import operator

POTENTIALS = 0  # no firing: the kernel returns potentials
RECT = 1  # alpha: the largest spike
HEAVISIDES = {
    "ATan": 2,
    "Sigmoid": 3,
    "PiecewiseQuadratic": 4,
    "PiecewiseExp": 5,
    "SoftSign": 6,
    "Erf": 7,
    "SuperSpike": 8,
    "Rect": 9,
}
BLOCK = 65_536  # elements


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
        return _RectFunction.apply(h, self.n) if self.spiking else h.clamp(0, self.n)

    def extra_repr(self) -> str:
        return f"n={self.n}, spiking={self.spiking}"


class Firing(NamedTuple):
    """How potentials become spikes. NaN, which a Heaviside would hide, stays NaN.

    function: `Rect`, a surrogate of SpikingJelly's kind, or None, which leaves potentials as they are.
    threshold: subtracted before a surrogate. potentials: they are wanted beside the spikes.
    """

    function: nn.Module | None
    threshold: float = 0.0
    potentials: bool = False

    def __call__(self, h: Tensor) -> Tensor:
        """The spikes of potentials, in torch."""
        if self.function is None:
            return h
        if isinstance(self.function, Rect):
            spikes: Tensor = self.function(h)
            return spikes
        u = h - self.threshold if self.threshold else h
        kind, alpha = _heaviside(self.function)
        if kind == HEAVISIDES["ATan"]:
            spikes = fire_atan(u, alpha)
        else:
            spikes = self.function(u).masked_fill(u.isnan(), math.nan)
        return spikes

    @property
    def levels(self) -> int:
        """The largest spike, if `Rect` fires and potentials are not wanted; else 0."""
        rect = isinstance(self.function, Rect) and self.function.spiking and not self.potentials
        return self.function.n if rect else 0  # type: ignore[union-attr, return-value]

    def fused(self) -> tuple[int, float]:
        """What a kernel is to fire, and its alpha; `POTENTIALS` if they are wanted or the kernel cannot fire this."""
        if self.function is None or self.potentials:
            return POTENTIALS, 0.0
        if isinstance(self.function, Rect):
            return (RECT, float(self.levels)) if self.levels else (POTENTIALS, 0.0)
        return _heaviside(self.function)

    def why_not_fused(self) -> str:
        """Why no kernel can fire this; "" if one can. A smooth form is fired outside, as its mode says."""
        function = self.function
        if function is None or isinstance(function, Rect) or not getattr(function, "spiking", True):
            return ""
        if _heaviside(function)[0]:
            return ""
        name = type(function).__name__
        return f'has no fused firing for {name}, only for {", ".join(HEAVISIDES)}; backend "auto" fires it unfused'


def _heaviside(surrogate: nn.Module) -> tuple[int, float]:
    """Number and alpha of a surrogate of SpikingJelly; `POTENTIALS` for another, or a smooth form."""
    kind = HEAVISIDES.get(type(surrogate).__name__, POTENTIALS)
    if not (kind and type(surrogate).__module__.startswith("spikingjelly.") and surrogate.spiking):
        return POTENTIALS, 0.0
    return kind, float(surrogate.alpha)  # type: ignore[arg-type]


class _RectFunction(torch.autograd.Function):
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


@operator("sj_lang::fire_atan")
def fire_atan(u: Tensor, alpha: float) -> Tensor:
    """1 if u >= 0, else 0; NaN stays NaN; gradient alpha / 2 / (1 + (pi / 2 alpha u)^2).

    SpikingJelly's, in fewer passes.
    """
    u = u.contiguous()
    spikes = torch.empty_like(u)
    for v, s in _blocks(u, spikes):
        torch.ge(v, 0, out=s)
        if v.device.type != "cpu" or bool(v.sum().isnan()):
            s.masked_fill_(v.isnan(), math.nan)
    return spikes


@operator("sj_lang::fire_atan_backward")
def fire_atan_backward(grad: Tensor, u: Tensor, alpha: float) -> Tensor:
    """The gradient of `fire_atan`."""
    grad, u = grad.contiguous(), u.contiguous()
    out = torch.empty_like(u)
    one = u.new_tensor(2 / alpha)
    for g, v, o in _blocks(grad, u, out):
        torch.mul(v, math.pi * math.sqrt(alpha / 2), out=o)
        torch.addcmul(one, o, o, out=o)
        torch.div(g, o, out=o)
    return out


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    flat = [t.view(-1) for t in tensors]
    size = BLOCK if flat[0].device.type == "cpu" else max(1, len(flat[0]))
    return zip(*(torch.split(t, size) for t in flat), strict=True)


@fire_atan.register_fake
def _(u: Tensor, alpha: float) -> Tensor:
    return u.new_empty(u.shape)


@fire_atan_backward.register_fake
def _(grad: Tensor, u: Tensor, alpha: float) -> Tensor:
    return u.new_empty(u.shape)


def _save(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    u, ctx.alpha = inputs
    ctx.save_for_backward(u)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return fire_atan_backward(grad, ctx.saved_tensors[0], ctx.alpha), None


fire_atan.register_autograd(_backward, setup_context=_save)
