"""Binary firing: a SpikingJelly surrogate, NaN kept, and ATan, the default, as one operator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.operators import operator

BLOCK = 65_536  # elements


def fire(u: Tensor, surrogate: nn.Module) -> Tensor:
    """Spikes of the potential less the threshold; NaN, which a Heaviside hides, stays NaN."""
    kind = type(surrogate)
    if kind.__name__ == "ATan" and kind.__module__.startswith("spikingjelly.") and surrogate.spiking:
        spikes: Tensor = fire_atan(u, float(surrogate.alpha))
        return spikes
    return surrogate(u).masked_fill(u.isnan(), math.nan)


@operator("sj_lang::fire_atan", schema="(Tensor u, float alpha) -> Tensor")
def fire_atan(u: Tensor, alpha: float) -> Tensor:
    """1 where u >= 0, else 0, NaN where NaN; gradient alpha / 2 / (1 + (pi / 2 alpha u)^2).

    SpikingJelly's, in fewer passes.
    """
    u = u.contiguous()
    spikes = torch.empty_like(u)
    for v, s in _blocks(u, spikes):
        torch.ge(v, 0, out=s)
        if v.device.type != "cpu" or bool(v.sum().isnan()):
            s.masked_fill_(v.isnan(), math.nan)
    return spikes


@operator("sj_lang::fire_atan_backward", schema="(Tensor grad, Tensor u, float alpha) -> Tensor")
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


def _blocks(*tensors: Tensor) -> Any:
    flat = [t.view(-1) for t in tensors]
    size = BLOCK if flat[0].device.type == "cpu" else max(1, len(flat[0]))
    return zip(*(t.split(size) for t in flat), strict=True)


@fire_atan.register_fake
def _(u: Tensor, alpha: float) -> Tensor:
    return u.new_empty(u.shape)


@fire_atan_backward.register_fake
def _(grad: Tensor, u: Tensor, alpha: float) -> Tensor:
    return u.new_empty(u.shape)


def _save(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.alpha = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return fire_atan_backward(grad, ctx.saved_tensors[0], ctx.alpha), None


fire_atan.register_autograd(_backward, setup_context=_save)
