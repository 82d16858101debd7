"""The whole DSN, logit, leak, recurrence and firing, as one torch operator in plain torch, for every device.

It works in blocks of steps that stay in the cache, and the backward pass computes each block again from its input and
the state at its border: nothing of the size of the input is kept but the input itself. With m = 1 / tau:

    q_t = sigmoid(-a_t),  w_t = 1 - alpha_t = 1 - (1 - q_t) ** m,  h_t = h_{t-1} + w_t (x_t - h_{t-1})

and backwards, with gl the gradient that comes through the firing,

    gh_t = gl_t + alpha_{t+1} gh_{t+1},   ga_t = m q_t (h_t - x_t) gh_t,   gx_t = w_t gh_t + sum_j w_j ga_{t+j}

where alpha_t (h_{t-1} - x_t) = h_t - x_t was used. All is flat: N is batch, channels and whatever follows them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sj_lang_neurons.dsn.gain import gain_
from sj_lang_neurons.dsn.leak import leak
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


class _Blocks:
    """Buffers for one block, and the forward pass of a block into them."""

    def __init__(
        self, x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, m: float, size: int
    ) -> None:
        self.x, self.tail, self.lengths, self.m, self.size = x, tail, lengths, m, size
        self.taps = weight.neg().unbind(0)
        self.bias = bias.neg()
        self._buffers = [x.new_empty(size, x.shape[1]) for _ in range(4)]
        self._time = None if lengths is None else torch.arange(len(x), device=x.device).unsqueeze(1)

    def window(self, t: slice) -> Tensor:
        """The inputs from k - 1 steps before the block to its end."""
        reach = len(self.tail)
        if t.start >= reach:
            return self.x[t.start - reach : t.stop]
        return torch.cat((self.tail[t.start :], self.x[: t.stop]))

    def run(self, t: slice, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, w, potentials and window of the block, from the potential before it. All but the last are buffers."""
        z, q, w, out = (buffer[: t.stop - t.start] for buffer in self._buffers)
        window = self.window(t)
        bias = self.bias if len(self.bias) == 1 else self.bias[t]
        if self.taps:
            torch.addcmul(bias, self.taps[0], window[: len(z)], out=z)
            for i, tap in enumerate(self.taps[1:], 1):
                z.addcmul_(tap, window[i : i + len(z)])
        else:
            z.copy_(bias)
        if self.lengths is not None and self._time is not None:
            z.masked_fill_(self._time[t] >= self.lengths, -torch.inf)  # alpha = 1: the state stays
        gain_(z, self.m, q, w)
        leak(self.x[t], w, h, out)
        return q, w, out, window

    def slices(self) -> list[slice]:
        steps = len(self.x)
        return [slice(t, min(t + self.size, steps)) for t in range(0, steps, self.size)]


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
    blocks = _Blocks(x, tail, weight, bias, lengths, m, size)
    out = torch.empty_like(x)
    slices = blocks.slices()
    borders = x.new_empty(len(slices), x.shape[1])
    h = h_0
    tiny = torch.finfo(x.dtype).tiny
    for t, border in zip(slices, borders.unbind(0), strict=True):
        torch.hardshrink(h, tiny, out=border)  # arithmetic on numbers too small to be normal is slow
        _, _, v, _ = blocks.run(t, border)
        if n:
            torch.round(v, out=out[t]).clamp_(0, n)
        else:
            out[t] = v
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
    blocks = _Blocks(x, tail, weight, bias, lengths, m, size)
    reach, width = tail.shape
    taps = (weight * m).flip(0).unbind(0)  # of lag 0, 1, ...
    grad_x = torch.empty_like(x)
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    g = x.new_empty(size + reach, width)  # gradient of the logits over m: the block's, then the k - 1 steps after it
    g[:reach] = 0
    gh_, product_ = x.new_empty(size, width), x.new_empty(size, width)
    carry = grad_last
    tiny = torch.finfo(x.dtype).tiny
    low, high = -tiny, _above(n, x.dtype)  # hardtanh's gradient is 0 at its limits, Rect's is not
    for t, border in zip(reversed(blocks.slices()), borders.flip(0).unbind(0), strict=True):
        rows_ = t.stop - t.start
        gh, product = gh_[:rows_], product_[:rows_]
        q, w, h, window = blocks.run(t, border)
        if n:
            torch.ops.aten.hardtanh_backward.grad_input(grad[t], h, low, high, grad_input=gh)
        else:
            gh.copy_(grad[t])
        gh[-1].add_(carry)
        alpha = torch.sub(w.new_ones(()), w, out=product)
        rows.scan(alpha[1:], gh[:-1], gh[-1], gh[:-1], reverse=True)
        carry = torch.hardshrink(alpha[0] * gh[0], tiny)

        g[rows_ : rows_ + reach] = g[:reach].clone()
        g_now = g[:rows_]
        torch.sub(h, blocks.x[t], out=g_now).mul_(gh).mul_(q)
        out = torch.mul(gh, w, out=grad_x[t])
        for lag, tap in enumerate(taps):
            out.addcmul_(tap, g[lag : lag + rows_])
            i = reach - lag
            grad_weight[i] += torch.mul(g_now, window[i : i + rows_], out=product).sum(0)
        if len(bias) == 1:
            grad_bias += g_now.sum(0)
        else:
            torch.mul(g_now, m, out=grad_bias[t])
    grad_tail = torch.zeros_like(tail)
    for lag, tap in enumerate(taps[1:], 1):
        grad_tail[reach - lag :].addcmul_(tap, g[:lag])
    if len(bias) == 1:
        grad_bias *= m
    return grad_x, grad_tail, carry, grad_weight * m, grad_bias


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


def _above(n: int, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(float(n), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)))
