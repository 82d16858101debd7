"""The whole DSN, logit, leak, recurrence and firing, as one operator in plain torch.

It works in parts of the columns and blocks of the steps, whose arrays stay in the cache. Backwards
each block is computed again from its input and the state at its border, which is all that is kept.
With m = 1 / tau:

    q_t = sigmoid(-a_t),  w_t = 1 - alpha_t = 1 - (1 - q_t)^m,  h_t = h_{t-1} + w_t (x_t - h_{t-1})

and backwards, with gl the gradient that comes through the firing,

    gh_t = gl_t + alpha_{t+1} gh_{t+1}
    ga_t = m q_t (h_t - x_t) gh_t,   gx_t = w_t gh_t + sum_j w_j ga_{t+j}

where alpha_t (h_{t-1} - x_t) = h_t - x_t was used. N is batch, channels and what follows them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sj_lang.operators import is_exporting, operator
from sj_lang_neurons.dsn.decomposition import forward
from sj_lang_neurons.dsn.inputs import DSNColumns, DSNInputs, DSNOutputs, columns, last_inputs
from sj_lang_neurons.dsn.operator import borders_of, complete
from sj_lang_neurons.dsn.torch_block import block
from sj_lang_neurons.firing import POTENTIALS, RECT, Firing, Fused
from sj_lang_neurons.scan.torch_blocks import pieces

BLOCK = 1 << 17  # elements of a block: the arrays of one fit into the second-level caches
WIDTH = 1 << 13  # columns of a part, or more if there are few steps: rows must be worth a call
EXPORTED = 128, 1024  # rows and columns in an exported program, which knows no sizes


def dsn_torch(inputs: DSNInputs, firing: Firing) -> DSNOutputs:
    """The kernel of backend "torch"."""
    fused = firing.fused()
    fired = fused == Fused(RECT, fused.alpha)  # from 0, without a margin; others follow in torch
    out, h = of_columns(columns(inputs), int(fused.alpha) if fired else 0)
    out, h = out.view(inputs.x.shape), h.view(inputs.x.shape[1:]).clone()
    return DSNOutputs(out if fired else firing(out), h, last_inputs(inputs), None if fired else out)


def of_columns(flat: DSNColumns, n: int) -> tuple[Tensor, Tensor]:
    """Spikes up to n [T, N], or potentials if n = 0; the potential after the valid steps."""
    out, h_last, _ = _forward(flat, n, *_cuts(flat.x))
    return out, h_last


@operator("sj_lang::dsn")
def _forward(flat: DSNColumns, n: int, size: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], the last potential [N], those before blocks [blocks, N]."""
    x = flat.x
    out, h_last, borders = results = _results(flat, size)
    tiny = torch.finfo(x.dtype).tiny
    for c, part in _parts(flat, width):
        h = part.h_0
        for number, t in enumerate(pieces(0, len(x), size)):
            here = block(x, t.stop - t.start, h.numel(), len(flat.weight))
            torch.hardshrink(h, tiny, out=borders[number, c])  # subnormal numbers are slow
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
    return torch.empty_like(flat.x), torch.empty_like(flat.h_0), borders_of(flat.x, size)


_forward.register_fake(lambda flat, n, size, width: _results(flat, size))


@operator("sj_lang::dsn_backward")
def _backward(
    grad: Tensor, grad_last: Tensor, borders: Tensor, flat: DSNColumns, n: int, size: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0, weight and bias."""
    x, tail, weight, m, grad = flat.x, flat.tail, flat.weight, flat.m, grad.contiguous()
    grad_x, grad_tail, grad_h = torch.empty_like(x), torch.empty_like(tail), torch.empty_like(grad_last)
    grad_weight, grad_bias = x.new_zeros(weight.shape), x.new_zeros(flat.bias.shape)
    low, high = -torch.finfo(x.dtype).tiny, _above(n, x.dtype)  # Rect's gradient at n is 1
    for c, part in _parts(flat, width):
        scaled = part.weight * m
        gh, alpha, g = grad_last[c], torch.ones_like(grad_last[c]), torch.zeros_like(part.tail)
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


_forward.register_decomposition(lambda flat, n, size, width: forward(flat, RECT if n else POTENTIALS, float(n), 0.0))
complete(_forward, _backward)


def _parts(flat: DSNColumns, width: int) -> Iterator[tuple[slice, DSNColumns]]:
    """The columns part by part, with weight and bias negated."""
    x, tail, h_0, weight, bias, lengths, m = flat
    weight, bias = weight.contiguous().neg(), bias.contiguous().neg()
    for c in pieces(0, x.shape[1], width):
        valid = None if lengths is None else lengths[c]
        yield c, DSNColumns(x[:, c], tail[:, c], h_0[c], weight[:, c], bias[:, c], valid, m)


def _cuts(x: Tensor) -> tuple[int, int]:
    """Rows of a block and columns of a part; all of them if not on a CPU."""
    if is_exporting():
        return EXPORTED
    steps, width = x.shape
    if x.device.type != "cpu":
        return steps, max(1, width)
    width = max(1, min(width, max(WIDTH, BLOCK // steps)))
    return max(1, min(steps, BLOCK // width)), width


def _above(n: int, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(float(n), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)))
