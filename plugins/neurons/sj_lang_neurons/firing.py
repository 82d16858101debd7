"""From potentials to spikes, for all neurons: inside a kernel if it can, else in torch after it.

The numbers are those of `surrogates.cuh` (FIRE) and `jit.py` (`kind`).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sj_lang.operators import operator

POTENTIALS = 0  # no firing: the kernel returns potentials
RECT = 1
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


class Fused(NamedTuple):
    """What a kernel is to fire: `POTENTIALS`, `RECT` or a number of `HEAVISIDES`.

    alpha: of a surrogate; `Rect.high`. threshold: of a surrogate; `Rect.low`. margin: of `Rect`.
    """

    kind: int = POTENTIALS
    alpha: float = 0.0
    threshold: float = 0.0
    margin: float = 0.0


def fire(u: Tensor, kind: int, alpha: float, threshold: float) -> Tensor:
    """What a kernel fires, in torch's own operators; arguments of `Fused`."""
    if kind == POTENTIALS:
        return u
    if kind == RECT:
        return u.round().clamp(threshold, alpha)
    return (u >= threshold).to(u.dtype).masked_fill(u.isnan(), math.nan)


class Rect(nn.Module):
    """S = clip(round(u), low, high), dS/du = 1 where low - margin <= u <= high + margin, else 0.

    Halves are rounded to even. As with SpikingJelly's surrogates, `set_spiking_mode(False)` gives
    the smooth form, here clip(u, low - margin, high + margin), for numerical gradient checks.
    """

    def __init__(self, low: int, high: int, margin: float = 0.0, spiking: bool = True) -> None:
        super().__init__()
        self.low, self.high, self.margin = low, high, float(margin)
        self.spiking = spiking

    def set_spiking_mode(self, spiking: bool) -> None:
        self.spiking = spiking

    def forward(self, u: Tensor) -> Tensor:
        if not self.spiking:
            return u.clamp(self.low - self.margin, self.high + self.margin)
        spikes: Tensor = _RectFunction.apply(u, self.low, self.high, self.margin)
        return spikes

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}, margin={self.margin}, spiking={self.spiking}"


class Firing(NamedTuple):
    """How potentials become spikes. NaN, which a Heaviside would hide, stays NaN.

    function: `Rect`, a surrogate of SpikingJelly's kind, or None for the potentials. threshold:
    subtracted before a surrogate. potentials: they are wanted beside the spikes.
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

    def fused(self) -> Fused:
        """`POTENTIALS` if they are wanted or no kernel can fire this."""
        rect = self.function
        if rect is None or self.potentials:
            return Fused()
        if isinstance(rect, Rect):
            return Fused(RECT, float(rect.high), float(rect.low), rect.margin) if rect.spiking else Fused()
        kind, alpha = _heaviside(rect)
        return Fused(kind, alpha, self.threshold) if kind else Fused()


def why_unfused(function: nn.Module | None) -> str:
    """Why no kernel can fire it; "" if one can, or if it is a smooth form, fired outside."""
    if function is None or isinstance(function, Rect) or not getattr(function, "spiking", True):
        return ""
    if _number(type(function).__module__, type(function).__name__):
        return ""
    name = type(function).__name__
    return f'has no fused firing for {name}, only for {", ".join(HEAVISIDES)}; backend "auto" fires it unfused'


def _heaviside(surrogate: nn.Module) -> tuple[int, float]:
    """Number and alpha of SpikingJelly's surrogate; `POTENTIALS` of another or a smooth form."""
    kind = _number(type(surrogate).__module__, type(surrogate).__name__)
    if not (kind and surrogate.spiking):
        return POTENTIALS, 0.0
    return kind, float(surrogate.alpha)  # type: ignore[arg-type]


def _number(module: str, name: str) -> int:
    """The number of SpikingJelly's surrogate, or `POTENTIALS` of another class."""
    return HEAVISIDES.get(name, POTENTIALS) if module.startswith("spikingjelly.") else POTENTIALS


class _RectFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, low: int, high: int, margin: float) -> Tensor:
        return u.clamp(low, high).round_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int, float], output: Tensor) -> None:
        u, low, high, margin = inputs
        ctx.save_for_backward(u)
        ctx.window = low - margin, high + margin

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (u,) = ctx.saved_tensors
        first, last = ctx.window
        return grad.masked_fill(~((u >= first) & (u <= last)), 0), None, None, None


@operator("sj_lang::fire_atan")
def fire_atan(u: Tensor, alpha: float) -> Tensor:
    """SpikingJelly's ATan in fewer passes; gradient alpha / 2 / (1 + (pi / 2 alpha u)^2)."""
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


fire_atan.register_decomposition(lambda u, alpha: fire(u, HEAVISIDES["ATan"], alpha, 0.0))
fire_atan.register_fake(lambda u, alpha: u.new_empty(u.shape))
fire_atan_backward.register_fake(lambda grad, u, alpha: u.new_empty(u.shape))


def _save(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    u, ctx.alpha = inputs
    ctx.save_for_backward(u)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return fire_atan_backward(grad, ctx.saved_tensors[0], ctx.alpha), None


fire_atan.register_autograd(_backward, setup_context=_save)
