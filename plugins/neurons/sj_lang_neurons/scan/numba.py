"""The linear recurrence on the CPU, compiled by numba: `kernel.py` as a torch operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns


@torch.library.custom_op("sj_lang::linear_scan_numba", mutates_args=())
def scan(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """a [T, N] or [1, N], u [T, N], h_0 [N], of one dtype -> h [T, N]."""
    from sj_lang_neurons.scan import kernel

    a, u, h_0 = a.contiguous(), u.contiguous(), h_0.contiguous()
    out = torch.empty_like(u)
    over_columns(kernel.forward, (*map(array, (a, u, h_0)), reverse, array(out)), u.shape[1], len(u))
    return out


@torch.library.custom_op("sj_lang::linear_scan_numba_backward", mutates_args=())
def _backward(grad: Tensor, a: Tensor, h: Tensor, h_0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, u and h_0."""
    from sj_lang_neurons.scan import kernel

    given = [t.contiguous() for t in (grad, a, h, h_0)]
    grads = [torch.empty_like(t) for t in given[1:]]
    over_columns(kernel.backward, (*map(array, given), reverse, *map(array, grads)), h.shape[1], len(h))
    return grads[0], grads[1], grads[2]


@scan.register_fake
def _(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    return u.new_empty(u.shape)


@_backward.register_fake
def _(grad: Tensor, a: Tensor, h: Tensor, h_0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), h.new_empty(h.shape), h_0.new_empty(h_0.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    a, _, h_0, ctx.reverse = inputs
    ctx.save_for_backward(a, output, h_0)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    a, h, h_0 = ctx.saved_tensors
    return *_backward(grad, a, h, h_0, ctx.reverse), None


scan.register_autograd(_differentiate, setup_context=_keep)
