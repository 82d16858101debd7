"""The whole DSN on the CPU, compiled by numba: `numba_kernel.py` as a torch operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns
from sj_lang.operators import operator
from sj_lang_neurons import surrogates
from sj_lang_neurons.dsn.flat import columns, last_inputs
from sj_lang_neurons.firing import Firing

INPUTS = (
    "Tensor x, Tensor tail, Tensor h_0, Tensor weight, Tensor bias, Tensor? lengths, "
    "float m, int kind, float level, float threshold"
)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As `flat.dsn`."""
    fused = None if firing.potentials else firing.fused()
    kind, level = fused or (surrogates.POTENTIALS, 0.0)
    given = columns(x, tail, h_0, weight, bias, lengths)
    out, h, _ = _forward(*given, m, kind, level, firing.threshold)
    out, h, after = out.view(x.shape), h.view(h_0.shape).clone(), last_inputs(x, tail, lengths)
    return (out, h, after, None) if fused else (firing(out), h, after, out)


@operator("sj_lang::dsn_numba", schema=f"({INPUTS}) -> (Tensor, Tensor, Tensor)")
def _forward(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    *firing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], the last potential [N], and those before each block [blocks, N]."""
    from sj_lang_neurons.dsn import numba_kernel as kernel

    steps, width = x.shape
    out, h_last, borders = torch.empty_like(x), torch.empty_like(h_0), x.new_empty(-(-steps // kernel.ROWS), width)
    given = (*map(array, (x, tail, h_0, weight, bias, lengths)), m, *firing)
    over_columns(kernel.forward, (*given, *map(array, (out, h_last, borders))), width, steps)
    return out, h_last, borders


@operator(
    "sj_lang::dsn_numba_backward",
    schema=f"(Tensor grad, Tensor grad_last, Tensor borders, {INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    *firing: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0, weight and bias."""
    from sj_lang_neurons.dsn import numba_kernel as kernel

    grads = *(torch.empty_like(t) for t in (x, tail, h_0)), *(torch.zeros_like(t) for t in (weight, bias))
    given = map(array, (grad.contiguous(), grad_last.contiguous(), borders, x, tail, weight, bias, lengths))
    over_columns(kernel.backward, (*given, m, *firing, *map(array, grads)), x.shape[1], len(x))
    return grads


@_forward.register_fake
def _(x: Tensor, tail: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    from sj_lang_neurons.dsn.numba_kernel import ROWS

    return torch.empty_like(x), torch.empty_like(h_0), x.new_empty(-(-x.shape[0] // ROWS), x.shape[1])


@_backward.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in given[3:8])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.m, ctx.kind, ctx.level, ctx.threshold = inputs
    ctx.save_for_backward(output[2], *tensors)


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(grad, grad_last, *ctx.saved_tensors, ctx.m, ctx.kind, ctx.level, ctx.threshold)
    return *grads, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
