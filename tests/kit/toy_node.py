"""A small healthy node on a kernel of its own: what the planted faults are planted in."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sj_lang.compat import surrogate
from sj_lang.neuron import Kernel, Node

State = dict[str, Tensor]


@torch.library.custom_op("sj_lang_toy::scan", mutates_args=())
def scan(decay: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + u_t, all [T, ...]; h [...] is the start."""
    out = torch.empty_like(u)
    for decay_t, u_t, out_t in zip(decay.unbind(), u.unbind(), out.unbind(), strict=True):
        h = torch.addcmul(u_t, decay_t, h, out=out_t)
    return out


@scan.register_fake
def _(decay: Tensor, u: Tensor, h: Tensor) -> Tensor:
    return torch.empty_like(u)


def keep(ctx, inputs, output):
    decay, _, h = inputs
    ctx.save_for_backward(decay, h, output)


def backward(ctx, grad):
    """The same scan, from the end: g_t = grad_t + decay_{t+1} g_{t+1}."""
    decay, h, out = ctx.saved_tensors
    later = torch.cat((decay[1:], torch.zeros_like(decay[:1]))).flip(0)
    g = scan(later, grad.flip(0), torch.zeros_like(h)).flip(0)
    return g * torch.cat((h[None], out[:-1])), g, decay[0] * g[0]


scan.register_autograd(backward, setup_context=keep)


class Toy(Node):
    """alpha_t = sigmoid(w_0 X_{t-1} + w_1 X_t), H_t = alpha_t H_{t-1} + (1 - alpha_t) X_t,
    S_t = [H_t >= threshold].
    """

    kernels: ClassVar = {"torch": Kernel(scan)}

    def __init__(self, *, channels: int, step_mode: str = "m", backend: str = "auto", store_v_seq: bool = False):
        super().__init__(channels=channels, step_mode=step_mode, backend=backend, store_v_seq=store_v_seq)
        self.weight = nn.Parameter(torch.randn(channels, 2))
        self.threshold = nn.Parameter(torch.full((channels,), 0.3))
        self.surrogate_function = surrogate("ATan")

    def state_shapes(self, shape):
        return {"h": tuple(shape), "last": tuple(shape)}

    def decay(self, x: Tensor, before: Tensor, axis: int) -> Tensor:
        w = self.weight.to(x.dtype)
        a = over(w[:, 0], x, axis) * before + over(w[:, 1], x, axis) * x
        return a.sigmoid()

    def fire(self, h: Tensor, axis: int) -> Tensor:
        spikes = self.surrogate_function(h - over(self.threshold, h, axis))
        return spikes.masked_fill(h.isnan(), torch.nan)

    def step(self, x: Tensor, state: State):
        alpha = self.decay(x, state["last"], axis=1)
        h = alpha * state["h"] + (1 - alpha) * x
        return self.fire(h, axis=1), {"h": h, "last": x.clone()}, h

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None):
        alpha = self.decay(x, torch.cat((state["last"][None], x[:-1])), axis=2)
        h = self.choose(x).run(alpha, (1 - alpha) * x, state["h"])
        return self.fire(h, axis=2), {"h": final(h, lengths, state["h"]), "last": final(x, lengths, state["last"])}, h


def over(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """parameter [C], shaped to be used along this axis of x, in x's dtype."""
    return parameter.to(x.dtype).view(-1, *(1,) * (x.dim() - axis - 1))


def final(h: Tensor, lengths: Tensor | None, before: Tensor) -> Tensor:
    """h [T, B, ...] after the last valid step; `before` where there is none."""
    if lengths is None:
        return h[-1].clone()
    at = h[(lengths - 1).clamp(min=0), torch.arange(len(lengths))]
    return torch.where((lengths > 0).view(-1, *(1,) * (at.dim() - 1)), at, before)


def reference(node, x, state):
    """The equations in a loop, in places that the node does not use."""
    h, last = (state["h"], state["last"]) if state else (torch.zeros_like(x[0]), torch.zeros_like(x[0]))
    spikes = []
    for x_t in x.unbind(0):
        alpha = 1 / (1 + torch.exp(-(node.weight[:, 0] * last + node.weight[:, 1] * x_t)))
        h = h + (1 - alpha) * (x_t - h)
        last = x_t
        spikes.append(node.surrogate_function(h - node.threshold))
    return torch.stack(spikes), {"h": h, "last": last}
