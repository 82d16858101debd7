"""The whole DSN, logit, leak, recurrence and firing, as one torch operator in plain torch, for every device.

It works in segments of steps, for the taps, and in blocks of a segment that stay in the cache, for all else. The
backward pass computes each block again from its input and the state at its border: nothing of the size of the input is
kept but the input itself. With m = 1 / tau:

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

BLOCK = 1 << 18  # elements of a block: fewer are faster to reach, more are worth the calls
SEGMENT = 1 << 21  # elements of a segment: what is needed at once of whole arrays, and worth a convolution


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
    size = rows.block_rows(x, BLOCK)
    out, h_last, _ = _forward(x.contiguous(), tail, h_0, weight, bias, lengths, m, n, size)
    return out, h_last


@dataclass(frozen=True)
class _Plan:
    """The parts of a sequence in which both passes are made, and what they have in common."""

    x: Tensor
    tail: Tensor
    weight: Tensor
    bias: Tensor
    lengths: Tensor | None
    m: float
    size: int  # rows of a block

    def segments(self) -> list[slice]:
        """Whole blocks each, but for the last."""
        steps, width = self.x.shape
        return _cut(0, steps, self.size * max(1, SEGMENT // max(1, self.size * width)))

    def blocks(self, segment: slice) -> list[tuple[int, slice]]:
        """The segment's blocks, each with its number in the sequence."""
        return [(t.start // self.size, t) for t in _cut(segment.start, segment.stop, self.size)]

    def taps(self, t: slice) -> Taps:
        """Those of the negated logits, -a_t."""
        reach = len(self.tail)
        start = t.start - reach
        window = self.x[start : t.stop] if start >= 0 else torch.cat((self.tail[t.start :], self.x[: t.stop]))
        return Taps(window, self.weight.neg(), (self.bias if len(self.bias) == 1 else self.bias[t]).neg())

    def buffers(self, count: int) -> list[Tensor]:
        return [self.x.new_empty(self.size, self.x.shape[1]) for _ in range(count)]

    def run(self, t: slice, z: Tensor, h: Tensor, w: Tensor, out: Tensor) -> None:
        """Turn the block's z = -a into q, write w and the potentials. h [N]: the potential before the block."""
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
    plan = _Plan(x, tail, weight, bias, lengths, m, size)
    out = torch.empty_like(x)
    borders = x.new_empty(-(-len(x) // size), x.shape[1])
    buffers = plan.buffers(2)
    tiny = torch.finfo(x.dtype).tiny
    h = h_0
    for segment in plan.segments():
        z = plan.taps(segment).logits()
        for number, t in plan.blocks(segment):
            w, v = (buffer[: t.stop - t.start] for buffer in buffers)
            border = torch.hardshrink(h, tiny, out=borders[number])  # arithmetic on subnormal numbers is slow
            v = v if n else out[t]
            plan.run(t, z[t.start - segment.start : t.stop - segment.start], border, w, v)
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
    plan = _Plan(x, tail, weight, bias, lengths, m, size)
    reach = len(tail)
    grad_window = x.new_zeros(reach + len(x), x.shape[1])
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    buffers = plan.buffers(4)
    tiny = torch.finfo(x.dtype).tiny
    low, high = -tiny, _above(n, x.dtype)  # hardtanh's gradient is 0 at its limits, Rect's is not
    one = x.new_ones(())
    carry = grad_last
    for segment in reversed(plan.segments()):
        taps = plan.taps(segment)
        g = taps.logits()  # -a, then q, then the gradient of -a over m
        for number, t in reversed(plan.blocks(segment)):
            w, h, gh, other = (buffer[: t.stop - t.start] for buffer in buffers)
            q = g[t.start - segment.start : t.stop - segment.start]
            plan.run(t, q, borders[number], w, h)
            if n:
                torch.ops.aten.hardtanh_backward.grad_input(grad[t], h, low, high, grad_input=gh)
            else:
                gh.copy_(grad[t])
            gh[-1].add_(carry)
            alpha = torch.sub(one, w, out=other)
            rows.scan(alpha[1:], gh[:-1], gh[-1], gh[:-1], reverse=True)
            carry = torch.hardshrink(alpha[0] * gh[0], tiny)
            grad_window[reach + t.start : reach + t.stop].addcmul_(gh, w)
            q.mul_(torch.sub(x[t], h, out=other).mul_(gh))
        through, of_weight, of_bias = taps.gradients(g)
        grad_window[segment.start : reach + segment.stop].add_(through, alpha=m)
        grad_weight.add_(of_weight, alpha=-m)
        (grad_bias if len(bias) == 1 else grad_bias[segment]).add_(of_bias, alpha=-m)
    return grad_window[reach:], grad_window[:reach].clone(), carry, grad_weight, grad_bias


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
    window = x.new_empty(tail.shape[0] + x.shape[0], x.shape[1])
    return (
        window[tail.shape[0] :],
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


def _cut(start: int, stop: int, size: int) -> list[slice]:
    return [slice(t, min(t + size, stop)) for t in range(start, stop, size)]


def _above(n: int, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(float(n), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)))
