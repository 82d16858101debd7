"""The whole DSN on the CPU, compiled by numba: `numba_kernel.py` as a torch operator."""

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns
from sj_lang.operators import operator
from sj_lang_neurons.dsn.decomposition import forward
from sj_lang_neurons.dsn.inputs import DSNColumns, DSNInputs, DSNOutputs, columns, last_inputs
from sj_lang_neurons.dsn.operator import borders_of, complete
from sj_lang_neurons.firing import Firing


def dsn_numba(inputs: DSNInputs, firing: Firing) -> DSNOutputs:
    """The kernel of backend "numba"."""
    fused = firing.fused()
    out, h, _ = _forward(columns(inputs), *fused)
    out, h = out.view(inputs.x.shape), h.view(inputs.x.shape[1:]).clone()
    return DSNOutputs(out if fused.kind else firing(out), h, last_inputs(inputs), None if fused.kind else out)


@operator("sj_lang::dsn_numba")
def _forward(
    flat: DSNColumns, kind: int, level: float, threshold: float, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], the last potential [N], those before blocks [blocks, N]."""
    from sj_lang_neurons.dsn import numba_kernel

    *tensors, m = flat
    results = _results(flat, numba_kernel.ROWS)
    arguments = (*map(array, tensors), m, kind, level, threshold, *map(array, results))
    over_columns(numba_kernel.forward, arguments, flat.x.shape[1], len(flat.x))
    return results


def _results(flat: DSNColumns, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(flat.x), torch.empty_like(flat.h_0), borders_of(flat.x, rows)


@operator("sj_lang::dsn_numba_backward")
def _backward(
    grad: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    flat: DSNColumns,
    kind: int,
    level: float,
    threshold: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, tail, h_0, weight and bias."""
    from sj_lang_neurons.dsn import numba_kernel

    x, tail, h_0, weight, bias, lengths, m = flat
    of_states = torch.empty_like(x), torch.empty_like(tail), torch.empty_like(h_0)
    grads = *of_states, torch.zeros_like(weight), torch.zeros_like(bias)
    read = map(array, (grad.contiguous(), grad_last.contiguous(), borders, x, tail, weight, bias, lengths))
    arguments = (*read, m, kind, level, threshold, margin, *map(array, grads))
    over_columns(numba_kernel.backward, arguments, x.shape[1], len(x))
    return grads


@_forward.register_fake
def _(flat: DSNColumns, *numbers: float) -> tuple[Tensor, Tensor, Tensor]:
    from sj_lang_neurons.dsn.numba_kernel import ROWS

    return _results(flat, ROWS)


_forward.register_decomposition(lambda flat, kind, level, threshold, margin: forward(flat, kind, level, threshold))
complete(_forward, _backward)
