"""The whole DSN, logit, leak, recurrence and firing, as one torch operator in plain torch, for every device.

It works in blocks of steps that stay in the cache, and the backward pass computes each block again from its input and
the state at its border: nothing of the size of the input is kept but the input itself. With m = 1 / tau:

    q_t = sigmoid(-a_t),  w_t = 1 - alpha_t = 1 - (1 - q_t) ** m,  h_t = h_{t-1} + w_t (x_t - h_{t-1})

and backwards, with gl the gradient that comes through the firing,

    gh_t = gl_t + alpha_{t+1} gh_{t+1},   ga_t = m q_t (h_t - x_t) gh_t,   gx_t = w_t gh_t + sum_j w_j ga_{t+j}

where alpha_t (h_{t-1} - x_t) = h_t - x_t was used. All is flat: N is batch, channels and whatever follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sj_lang_neurons.dsn.gain import gain_
from sj_lang_neurons.dsn.leak import leak
from sj_lang_neurons.dsn.taps import Taps
from sj_lang_neurons.scan import rows


def dsn(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    *,
    m: float,
    n: int,
) -> tuple[Tensor, Tensor]:
    """Spikes [T, N] of a whole sequence, and the potential [N] after its last valid step.

    x [T, N]; tail [k-1, N], the inputs before it; h_0 [N]; weight [k, N], the taps, the oldest input first; bias
    [1, N] or [T, N]; all of one dtype. k = 0, and no tail, for a logit that is the bias alone.
    lengths [N] int64: the valid steps, which come first; None: all. m: 1 / tau.
    n: largest spike; 0 returns the potentials [T, N] in place of spikes.
    """
    size = rows.block_rows(*x.shape)
    out, h_last, _ = _forward(x.contiguous(), tail, h_0, weight, bias, lengths, m, n, size)
    return out, h_last


@dataclass(frozen=True)
class _Leaky:
    """The forward pass of a block, from logits to potentials."""

    x: Tensor
    lengths: Tensor | None
    m: float

    def run(self, t: slice, z: Tensor, h: Tensor, w: Tensor, out: Tensor) -> None:
        """Turn z = -a into q, write w and the potentials to their buffers. h [N]: the potential before the block."""
        if self.lengths is not None:
            over = torch.arange(t.start, t.stop, device=z.device).unsqueeze(1) >= self.lengths
            z.masked_fill_(over, -torch.inf)  # alpha = 1: the state stays
        gain_(z, self.m, w)
        leak(self.x[t], w, h, out)


@torch.library.custom_op("sj_lang::dsn", mutates_args=())
def _forward(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    n: int,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], last potential [N], and the potential before each block [blocks, N]."""
    leaky = _Leaky(x, lengths, m)
    z = Taps(torch.cat((tail, x)), weight.neg(), bias.neg()).logits()
    out = torch.empty_like(x)
    slices = _slices(len(x), size)
    borders = x.new_empty(len(slices), x.shape[1])
    w_, v_ = (x.new_empty(size, x.shape[1]) for _ in range(2))
    h = h_0
    tiny = torch.finfo(x.dtype).tiny
    for t, border in zip(slices, borders.unbind(0), strict=True):
        torch.hardshrink(h, tiny, out=border)  # arithmetic on numbers too small to be normal is slow
        w, v = w_[: t.stop - t.start], v_[: t.stop - t.start] if n else out[t]
        leaky.run(t, z[t], border, w, v)
        if n:
            torch.round(v, out=out[t]).clamp_(0, n)
        h = v[-1]
    return out, h.clone(), borders


@_forward.register_fake
def _(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    n: int,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    borders = x.new_empty(-(-x.shape[0] // size), x.shape[1])
    return torch.empty_like(x), torch.empty_like(h_0), borders


@torch.library.custom_op("sj_lang::dsn_backward", mutates_args=())
def _backward(
    grad: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    n: int,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0, weight and bias."""
    leaky = _Leaky(x, lengths, m)
    taps = Taps(torch.cat((tail, x)), weight.neg(), bias.neg())
    g = taps.logits()  # -a, then q, then the gradient of -a
    direct = torch.empty_like(x)
    w_, h_, gh_, other_ = (x.new_empty(size, x.shape[1]) for _ in range(4))
    carry = grad_last
    tiny = torch.finfo(x.dtype).tiny
    low, high = -tiny, _above(n, x.dtype)  # hardtanh's gradient is 0 at its limits, Rect's is not
    for t, border in zip(reversed(_slices(len(x), size)), borders.flip(0).unbind(0), strict=True):
        w, h, gh, other = (buffer[: t.stop - t.start] for buffer in (w_, h_, gh_, other_))
        q = g[t]
        leaky.run(t, q, border, w, h)
        if n:
            torch.ops.aten.hardtanh_backward.grad_input(grad[t], h, low, high, grad_input=gh)
        else:
            gh.copy_(grad[t])
        gh[-1].add_(carry)
        alpha = torch.sub(w.new_ones(()), w, out=other)
        rows.scan(alpha[1:], gh[:-1], gh[-1], gh[:-1], reverse=True)
        carry = torch.hardshrink(alpha[0] * gh[0], tiny)
        torch.mul(gh, w, out=direct[t])
        q.mul_(torch.sub(x[t], h, out=other).mul_(gh))
    grad_window, grad_weight, grad_bias = taps.gradients(g)
    reach = len(tail)
    grad_x = direct.add_(grad_window[reach:], alpha=m)
    return grad_x, grad_window[:reach] * m, carry, grad_weight * -m, grad_bias * -m


@_backward.register_fake
def _(
    grad: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    n: int,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x),
        torch.empty_like(tail),
        torch.empty_like(grad_last),
        torch.empty_like(weight),
        torch.empty_like(bias),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, tail, _, weight, bias, lengths, ctx.m, ctx.n, ctx.size = inputs
    ctx.save_for_backward(output[2], x, tail, weight, bias, lengths)


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(grad.contiguous(), grad_last, *ctx.saved_tensors, ctx.m, ctx.n, ctx.size)
    return *grads, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _slices(steps: int, size: int) -> list[slice]:
    return [slice(t, min(t + size, steps)) for t in range(0, steps, size)]


def _above(n: int, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(float(n), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)))
