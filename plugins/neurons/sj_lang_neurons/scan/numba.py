"""The linear recurrence on the CPU, compiled by numba: `numba_kernel.py` as a torch operator."""

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns
from sj_lang.operators import operator
from sj_lang_neurons.scan.operator import complete


@operator("sj_lang::linear_scan_numba")
def scan_numba(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """a [T, N] or [1, N], u [T, N], h_0 [N], of one dtype -> h [T, N]."""
    from sj_lang_neurons.scan import numba_kernel

    a, u, h_0 = a.contiguous(), u.contiguous(), h_0.contiguous()
    out = torch.empty_like(u)
    over_columns(numba_kernel.forward, (*map(array, (a, u, h_0)), reverse, array(out)), u.shape[1], len(u))
    return out


@operator("sj_lang::linear_scan_numba_backward")
def _backward(grad: Tensor, a: Tensor, h: Tensor, h_0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, u and h_0."""
    from sj_lang_neurons.scan import numba_kernel

    inputs = [t.contiguous() for t in (grad, a, h, h_0)]
    grads = [torch.empty_like(t) for t in inputs[1:]]
    over_columns(numba_kernel.backward, (*map(array, inputs), reverse, *map(array, grads)), h.shape[1], len(h))
    return grads[0], grads[1], grads[2]


complete(scan_numba, _backward)
