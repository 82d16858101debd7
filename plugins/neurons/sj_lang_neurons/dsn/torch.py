"""The whole DSN, logit, leak, recurrence and firing, as one torch operator in plain torch, for every device.

It works in parts of the columns and blocks of the steps, whose arrays stay in the cache. The
backward pass computes each block again from its input and the state at its border: nothing of the
size of the input is kept but the input itself. With m = 1 / tau:

    q_t = sigmoid(-a_t),  w_t = 1 - alpha_t = 1 - (1 - q_t) ** m,  h_t = h_{t-1} + w_t (x_t - h_{t-1})

and backwards, with gl the gradient that comes through the firing,

    gh_t = gl_t + alpha_{t+1} gh_{t+1},   ga_t = m q_t (h_t - x_t) gh_t,   gx_t = w_t gh_t + sum_j w_j ga_{t+j}

where alpha_t (h_{t-1} - x_t) = h_t - x_t was used. All is flat: N is batch, channels and whatever
follows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sj_lang.operators import gradients, keep_with_last_result, kept, operator
from sj_lang_neurons.dsn.inputs import DSNColumns, DSNInputs, DSNOutputs, columns, last_inputs
from sj_lang_neurons.dsn.torch_block import DSNPart, block
from sj_lang_neurons.firing import RECT, Firing, Fused
from sj_lang_neurons.scan.torch_blocks import pieces

BLOCK = 1 << 17  # elements of a block: the arrays of one fit into the second-level caches
WIDTH = 1 << 13  # columns of a part, or more if there are few steps: enough for a row to be worth a call


def dsn_torch(inputs: DSNInputs, firing: Firing) -> DSNOutputs:
    """The kernel of backend "torch"."""
    fused = firing.fused()
    fired = fused == Fused(RECT, fused.alpha)  # from 0 and without a margin; all else follows in torch
    out, h = of_columns(columns(inputs), int(fused.alpha) if fired else 0)
    out, h = out.view(inputs.x.shape), h.view(inputs.x.shape[1:]).clone()
    return DSNOutputs(out if fired else firing(out), h, last_inputs(inputs), None if fired else out)


def of_columns(flat: DSNColumns, n: int) -> tuple[Tensor, Tensor]:
    """Spikes [T, N] of a whole sequence, and the potential [N] after its last valid step.

    n: largest spike; 0 returns the potentials [T, N] in place of spikes.
    """
    out, h_last, _ = _forward(flat, n, *_cuts(flat.x))
    return out, h_last


@operator("sj_lang::dsn")
def _forward(flat: DSNColumns, n: int, size: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], last potential [N], and the potential before each block [blocks, N]."""
    x = flat.x
    out, h_last, borders = results = _results(flat, size)
    tiny = torch.finfo(x.dtype).tiny
    for c, part in _parts(flat, width):
        h = flat.h_0[c]
        for number, t in enumerate(pieces(0, len(x), size)):
            here = block(x, t.stop - t.start, h.numel(), len(flat.weight))
            torch.hardshrink(h, tiny, out=borders[number, c])  # arithmetic on subnormal numbers is slow
            here.run(part, t, borders[number, c])
            v = here.h.all
            if n:
                torch.round(v, out=out[t, c]).clamp_(0, n).abs_()  # 0 and not -0
            else:
                out[t, c] = v
            h = v[-1]
        h_last[c] = h
    return results


def _results(flat: DSNColumns, size: int) -> tuple[Tensor, Tensor, Tensor]:
    borders = flat.x.new_empty(-(-flat.x.shape[0] // size), flat.x.shape[1])
    return torch.empty_like(flat.x), torch.empty_like(flat.h_0), borders


_forward.register_fake(lambda flat, n, size, width: _results(flat, size))


@operator("sj_lang::dsn_backward")
def _backward(
    grad: Tensor, grad_last: Tensor, borders: Tensor, flat: DSNColumns, n: int, size: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0, weight and bias."""
    x, tail, weight, m = flat.x, flat.tail, flat.weight, flat.m
    grad_x, grad_tail, grad_h = torch.empty_like(x), torch.empty_like(tail), torch.empty_like(grad_last)
    grad_weight, grad_bias = x.new_zeros(weight.shape), x.new_zeros(flat.bias.shape)
    low, high = -torch.finfo(x.dtype).tiny, _above(n, x.dtype)  # hardtanh's gradient is 0 at its limits, Rect's is not
    for c, part in _parts(flat, width):
        scaled = part.weight * m
        gh, alpha, g = grad_last[c], torch.ones_like(grad_last[c]), torch.zeros_like(part.tail)  # after the last step
        for number, t in reversed(list(enumerate(pieces(0, len(x), size)))):
            here = block(x, t.stop - t.start, gh.numel(), len(weight))
            here.run(part, t, borders[number, c])
            if n:
                torch.ops.aten.hardtanh_backward.grad_input(grad[t, c], here.h.all, low, high, grad_input=here.gh.all)
            else:
                here.gh.all.copy_(grad[t, c])
            here.back(gh, alpha, g, grad_x[t, c])
            here.add_through_taps(scaled, grad_x[t, c])
            here.add_to_weight(grad_weight[:, c])
            if len(flat.bias) == 1:
                grad_bias[0, c] += here.g.sum(0)
            else:
                grad_bias[t, c] = here.g
            gh, alpha = torch.hardshrink(here.gh.each[0], -low), here.alpha[0].clone()
            g = here.g_on[: len(tail)].clone()
        grad_tail[:, c] = here.tail_through_taps(scaled)
        grad_h[c] = alpha * gh
    return grad_x, grad_tail, grad_h, grad_weight.mul_(-m), grad_bias.mul_(-m)


@_backward.register_fake
def _(grad: Tensor, grad_last: Tensor, borders: Tensor, flat: DSNColumns, *numbers: int) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, (flat.x, flat.tail, flat.h_0, flat.weight, flat.bias)))


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (borders,), flat = kept(ctx, DSNColumns)
    x, tail, h_0, weight, bias = _backward(grad.contiguous(), grad_last, borders, flat, *ctx.rest)
    return gradients(ctx, DSNColumns, x=x, tail=tail, h_0=h_0, weight=weight, bias=bias)


_forward.register_autograd(_differentiate, setup_context=keep_with_last_result)


def _parts(flat: DSNColumns, width: int) -> Iterator[tuple[slice, DSNPart]]:
    x, tail, _, weight, bias, lengths, m = flat
    weight, bias = weight.contiguous().neg(), bias.contiguous().neg()
    for c in pieces(0, x.shape[1], width):
        of_columns = (x[:, c], tail[:, c], weight[:, c], bias[:, c], None if lengths is None else lengths[c])
        yield c, DSNPart(*of_columns, m)


def _cuts(x: Tensor) -> tuple[int, int]:
    """Rows of a block and columns of a part; all of them if not on a CPU."""
    steps, width = x.shape
    if x.device.type != "cpu":
        return steps, max(1, width)
    width = max(1, min(width, max(WIDTH, BLOCK // steps)))
    return max(1, min(steps, BLOCK // width)), width


def _above(n: int, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(float(n), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)))
