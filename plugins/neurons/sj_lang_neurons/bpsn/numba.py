"""BPSN on the CPU without K's quantiser: `numba_kernel.py` as a torch operator."""

from typing import Any

import torch
from torch import Tensor

from sj_lang.cpu import array, over_columns
from sj_lang.operators import gradients, keep_inputs, kept, operator
from sj_lang_neurons.bpsn.decomposition import forward
from sj_lang_neurons.bpsn.inputs import BPSNInputs, BPSNOutputs, BPSNTerms, outputs_of, results_of, terms_of
from sj_lang_neurons.firing import Firing


def bpsn_numba(inputs: BPSNInputs, firing: Firing) -> BPSNOutputs:
    """The kernel of backend "numba"."""
    terms = terms_of(inputs)
    fused = firing.fused()
    out, after = _forward(terms, *fused)
    return outputs_of(inputs, terms, out if fused.kind else firing(out), after)


def _columns(terms: BPSNTerms) -> tuple[Any, ...]:
    """The arguments that both kernels share, N = batch, channels and places."""
    x, g0, threshold, lf, gf, lb, gb, rho, numerator, denominator, lengths, normalised = terms
    steps, *step = x.shape
    absent = torch.zeros_like(g0)
    learned = torch.stack([absent if value is None else value for value in (g0, threshold, lf, gf, lb, gb, rho)])
    parameters = learned[:, None, :, None].expand(-1, *step).contiguous()
    zero = x.new_zeros(step)
    start = zero if numerator is None else numerator.contiguous()
    ones = zero if denominator is None or lf is None else denominator[..., None].expand(step).contiguous()
    valid = x.new_full(step, steps) if lengths is None else lengths.to(x.dtype)[:, None, None].expand(step).contiguous()
    flags = (lf is not None, lb is not None, rho is not None and normalised, normalised)
    return array(parameters.flatten(1)), *flags, *(array(t.flatten()) for t in (start, ones, valid))


@operator("sj_lang::bpsn_numba")
def _forward(terms: BPSNTerms, kind: int, level: float, lowest: float, margin: float) -> tuple[Tensor, Tensor]:
    """Spikes or H - threshold [T, B, C, S], and the numerator after them."""
    from sj_lang_neurons.bpsn import numba_kernel

    x = terms.x.contiguous()
    out, after = torch.empty_like(x), torch.empty_like(x[0])
    arguments = (*_columns(terms), kind, level, lowest, array(out.flatten(1)), array(after.flatten()))
    over_columns(numba_kernel.forward, (array(x.flatten(1)), *arguments), after.numel(), len(x))
    return out, after if terms.numerator is not None else after.new_empty(0)


@operator("sj_lang::bpsn_numba_backward")
def _backward(
    grad: Tensor, grad_after: Tensor, terms: BPSNTerms, kind: int, level: float, lowest: float, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the numerator, and g0, ..., rho, denominator [8, B, C, S], not yet summed."""
    from sj_lang_neurons.bpsn import numba_kernel

    x, grad = terms.x.contiguous(), grad.contiguous()
    end = x.new_zeros(x.shape[1:]) if terms.numerator is None else grad_after.contiguous()
    grad_x, grad_start, sums = torch.empty_like(x), torch.empty_like(x[0]), x.new_zeros(8, *x.shape[1:])
    read = (array(grad.flatten(1)), array(end.flatten()), array(x.flatten(1)), *_columns(terms))
    write = (array(grad_x.flatten(1)), array(grad_start.flatten()), array(sums.flatten(1)))
    firing = (kind, level, lowest, margin, terms.denominator is not None)
    over_columns(numba_kernel.backward, (*read, *firing, *write), grad_start.numel(), len(x))
    return grad_x, grad_start, sums


_forward.register_decomposition(lambda terms, kind, level, lowest, margin: forward(terms, kind, level, lowest))
_forward.register_fake(lambda terms, *_: results_of(terms))


@_backward.register_fake
def _(grad: Tensor, grad_after: Tensor, terms: BPSNTerms, *_: float) -> tuple[Tensor, Tensor, Tensor]:
    x = terms.x
    return x.new_empty(x.shape), x.new_empty(x.shape[1:]), x.new_empty(8, *x.shape[1:])


def _differentiate(ctx: Any, grad: Tensor, grad_after: Tensor) -> tuple[Tensor | None, ...]:
    _, terms = kept(ctx, BPSNTerms)
    grad_x, grad_start, sums = _backward(grad, grad_after, terms, *ctx.rest)
    g0, threshold, lf, gf, lb, gb, rho = sums[:7].sum((1, 3)).unbind(0)
    return gradients(
        ctx, BPSNTerms, x=grad_x, g0=g0, threshold=threshold, lf=lf, gf=gf, lb=lb, gb=gb, rho=rho,
        numerator=grad_start, denominator=sums[7].sum(2),
    )  # fmt: skip


_forward.register_autograd(_differentiate, setup_context=keep_inputs)
