"""The whole BPSN, but for K's quantiser, on the CPU, compiled by numba: `numba_kernel.py` as a torch operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns
from sj_lang.operators import operator
from sj_lang_neurons.bpsn.fired import firing, of_node
from sj_lang_neurons.bpsn.torch import INPUTS

FIRED = f"{INPUTS}, int kind, float level"


def _columns(x: Tensor, given: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments that both kernels share, N = batch, channels and places."""
    g0, threshold, lf, gf, lb, gb, rho, numerator, denominator, lengths, normalised = given
    steps, *step = x.shape
    parameters = x.new_zeros(7, *step)
    for row, value in zip(parameters, (g0, threshold, lf, gf, lb, gb, rho), strict=True):
        if value is not None:
            row.copy_(value[:, None].expand(step))
    zero = x.new_zeros(step)
    start = zero if numerator is None else numerator.contiguous()
    ones = zero if denominator is None or lf is None else denominator[..., None].expand(step).contiguous()
    valid = x.new_full(step, steps) if lengths is None else lengths.to(x.dtype)[:, None, None].expand(step).contiguous()
    flags = (lf is not None, lb is not None, rho is not None and normalised, normalised)
    return array(parameters.flatten(1)), *flags, *(array(t.flatten()) for t in (start, ones, valid))


@operator("sj_lang::bpsn_numba", schema=f"({FIRED}) -> (Tensor, Tensor)")
def _forward(x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Spikes or H - threshold [T, B, C, S], and the numerator after them."""
    from sj_lang_neurons.bpsn import numba_kernel as kernel

    *given, kind, level = given
    x = x.contiguous()
    out, after = torch.empty_like(x), torch.empty_like(x[0])
    shared = _columns(x, given)
    arguments = (array(x.flatten(1)), *shared, kind, level, array(out.flatten(1)), array(after.flatten()))
    over_columns(kernel.forward, arguments, after.numel(), len(x))
    return out, after if given[7] is not None else after.new_empty(0)


@operator(
    "sj_lang::bpsn_numba_backward",
    schema=f"(Tensor grad, Tensor grad_after, {FIRED}) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Tensor, grad_after: Tensor, x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and the numerator; of g0, ..., rho and the denominator [8, B, C, S], not yet summed."""
    from sj_lang_neurons.bpsn import numba_kernel as kernel

    *given, kind, level = given
    x, grad = x.contiguous(), grad.contiguous()
    end = x.new_zeros(x.shape[1:]) if given[7] is None else grad_after.contiguous()
    grad_x, grad_start, sums = torch.empty_like(x), torch.empty_like(x[0]), x.new_zeros(8, *x.shape[1:])
    read = (array(grad.flatten(1)), array(end.flatten()), array(x.flatten(1)), *_columns(x, given), kind, level)
    write = (array(grad_x.flatten(1)), array(grad_start.flatten()), array(sums.flatten(1)))
    over_columns(kernel.backward, (*read, *write), grad_start.numel(), len(x))
    return grad_x, grad_start, sums


@_forward.register_fake
def _(x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if given[7] is None else x.shape[1:])


@_backward.register_fake
def _(grad: Tensor, grad_after: Tensor, x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[1:]), x.new_empty(8, *x.shape[1:])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.normalised, ctx.kind, ctx.level = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor, grad_after: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_start, sums = _backward(grad, grad_after, *ctx.saved_tensors, ctx.normalised, ctx.kind, ctx.level)
    found = (grad_x, *sums[:7].sum((1, 3)).unbind(0), grad_start, sums[7].sum(2))
    wanted = [g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)]
    return *wanted, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)

bpsn = of_node(firing(_forward))
