"""The whole DSN on the GPU, in one kernel forward and one backward: `kernel.cu` as a torch operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import operator
from sj_lang_neurons import surrogates
from sj_lang_neurons.dsn.firing import Firing
from sj_lang_neurons.scan.layout import STEPS, flat, like, schedule, strides

FILE = Path(__file__).with_name("kernel.cu")
MOST_TAPS = STEPS + 1


def dsn(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    *,
    m: float,
    firing: Firing,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `flat.dsn`; x may also be float16 or bfloat16, of any strides, and k is at most `MOST_TAPS`."""
    fused = None if firing.potentials else firing.fused()
    kind, alpha = fused or (surrogates.POTENTIALS, 0.0)
    logit = bias if bias.dim() == 1 else flat(bias)
    out, h, _ = _forward(flat(x), tail, h_0, weight, logit, lengths, m, kind, alpha, firing.threshold)
    out = out.view(x.shape)
    return (out, h, None) if fused else (firing(out), h, out)


def why_not(x: Tensor | None) -> str:
    """Why it cannot run on this tensor; "" if it can."""
    return cuda.why_not(x)


def _macros(x: Tensor, weight: Tensor, bias: Tensor, m: float, kind: int) -> dict[str, int]:
    power = int(m) if m.is_integer() and m <= 64 else 0
    logit = int(bias.dim() > 1)
    return {"IO": cuda.IO[x.dtype], "TAPS": weight.shape[1], "LOGIT": logit, "POWER": power, "FIRE": kind}


def _result(x: Tensor, like_state: Tensor, kind: int) -> Tensor:
    return like(x, None if kind else like_state.dtype)


@operator("sj_lang::dsn_cuda")
def _forward(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials of x [T, B, C, S], the last potential, and those before each tile [tiles, B, C, S]."""
    steps, *step = x.shape
    out, h_last = _result(x, h_0, kind), torch.empty_like(h_0, memory_format=torch.contiguous_format)
    tile = schedule(h_0.numel(), steps)
    borders = h_0.new_empty(tile.tiles(steps), *step)
    given = [t.contiguous() for t in (tail, h_0, weight, bias)]
    arguments = [
        x,
        *strides(x),
        *given,
        lengths,
        out,
        *strides(out),
        h_last,
        borders,
        steps,
        *step,
        m,
        alpha,
        threshold,
    ]
    macros = {**_macros(x, weight, bias, m, kind), **tile.macros}
    cuda.launch(FILE, "dsn", macros, (tile.blocks(h_0.numel()), 1), tile.block, arguments, x.device)
    return out, h_last, borders


@_forward.register_fake
def _(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    borders = h_0.new_empty(schedule(h_0.numel(), x.shape[0]).tiles(x.shape[0]), *x.shape[1:])
    return _result(x, h_0, kind), torch.empty_like(h_0, memory_format=torch.contiguous_format), borders


@operator("sj_lang::dsn_cuda_backward")
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
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0; of weight and bias together, before they are summed over batch and places
    [k + 1, B, C, S]; and of a bias for each step (else empty)."""
    steps, *step = x.shape
    results = _gradients(x, tail, grad_last, borders, weight, bias)
    grad_x, grad_tail, grad_0, sums, grad_logit = results
    columns = grad_last.numel()
    tile = schedule(columns, steps)
    given = [t.contiguous() for t in (tail, weight, bias)]
    arguments = [grad, *strides(grad), grad_last.contiguous(), borders, x, *strides(x), *given, lengths]
    arguments += [grad_x, *strides(grad_x), grad_tail, grad_0, sums, grad_logit, steps, *step, m, alpha, threshold]
    macros = {**_macros(x, weight, bias, m, kind), **tile.macros}
    cuda.launch(FILE, "dsn_backward", macros, (tile.blocks(columns), 1), tile.block, arguments, x.device)
    return results


def _gradients(
    x: Tensor, tail: Tensor, grad_last: Tensor, borders: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    sums = borders.new_empty(weight.shape[1] + 1, *x.shape[1:])
    logit = borders.new_empty(bias.shape if bias.dim() > 1 else (0,))
    grad_0, grad_tail = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (grad_last, tail))
    return like(x), grad_tail, grad_0, sums, logit


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
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(x, tail, grad_last, borders, weight, bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, tail, _, weight, bias, lengths, *ctx.numbers = inputs
    ctx.save_for_backward(output[2], x, tail, weight, bias, lengths)


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    bias = ctx.saved_tensors[4]
    grad_x, grad_tail, grad_0, sums, grad_logit = _backward(grad, grad_last, *ctx.saved_tensors, *ctx.numbers)
    of_channels = sums.sum((1, 3))  # [k + 1, C]
    grad_bias = of_channels[-1] if bias.dim() == 1 else grad_logit
    return grad_x, grad_tail, grad_0, of_channels[:-1].t(), grad_bias, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
