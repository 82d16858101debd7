"""BPSN's potential as one operator in plain torch: two linear scans and an elementwise pass.

The call is cut into tiles (`torch_tiles`), each of which is worked through in passes over its
blocks (`torch_passes`). Only the inputs are kept for the backward, which scans again. The firing
follows in torch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sj_lang.operators import gradients, keep_inputs, kept, needed, operator
from sj_lang_neurons.bpsn import torch_passes
from sj_lang_neurons.bpsn.decomposition import forward
from sj_lang_neurons.bpsn.inputs import BPSNInputs, BPSNOutputs, BPSNTerms, outputs_of, results_of, terms_of
from sj_lang_neurons.bpsn.torch_tiles import tiles
from sj_lang_neurons.firing import POTENTIALS, Firing


class Gradients(NamedTuple):
    """The gradients of the terms that can have one, by name; an empty tensor stands for None."""

    x: Tensor
    g0: Tensor
    threshold: Tensor
    lf: Tensor
    gf: Tensor
    lb: Tensor
    gb: Tensor
    rho: Tensor
    numerator: Tensor
    denominator: Tensor


def bpsn_torch(inputs: BPSNInputs, firing: Firing) -> BPSNOutputs:
    """The kernel of backend "torch"."""
    terms = terms_of(inputs)
    u, after = potential(terms)
    return outputs_of(inputs, terms, firing(u), after)


@operator("sj_lang::bpsn")
def potential(terms: BPSNTerms) -> tuple[Tensor, Tensor]:
    """H - threshold [T, B, C, S], and the numerator after the valid steps [B, C, S], or empty."""
    terms = terms._replace(x=terms.x.contiguous())
    u, after = results_of(terms)
    for tile, b, c in tiles(terms, arrays=torch_passes.FORWARD_ARRAYS, slopes=False):
        tile_after = None if terms.numerator is None else after[b, c]
        torch_passes.forward(tile, u[:, b, c], tile_after)
    return u, after


potential.register_decomposition(lambda terms: forward(terms, POTENTIALS, 0.0, 0.0))
potential.register_fake(results_of)


@operator("sj_lang::bpsn_backward")
def potential_backward(grad: Tensor, grad_after: Tensor, terms: BPSNTerms, exact_start: bool) -> Gradients:
    """Gradients of the terms; that of the denominator is empty without `exact_start`."""
    terms, grad = terms._replace(x=terms.x.contiguous()), grad.contiguous()
    x, g0, numerator, denominator = terms.x, terms.g0, terms.numerator, terms.denominator
    g_x = x.new_empty(x.shape)
    sums = {name: torch.zeros_like(g0)[:, None] for name in ("g0", "threshold", "lf", "gf", "lb", "gb", "rho")}
    g_numerator = x.new_empty(0 if numerator is None else numerator.shape)
    g_denominator = x.new_zeros(denominator.shape if denominator is not None and exact_start else 0)
    for tile, b, c in tiles(terms, arrays=torch_passes.BACKWARD_ARRAYS, slopes=True, exact_start=exact_start):
        g_after = None if numerator is None else grad_after[b, c]
        tile_sums = {name: total[c] for name, total in sums.items()}
        g_start, g_d0 = torch_passes.backward(tile, grad[:, b, c], g_after, g_x[:, b, c], tile_sums)
        if numerator is not None:
            g_numerator[b, c] = g_start
        if exact_start and g_d0 is not None:
            g_denominator[b, c] = g_d0[..., 0]
    of = {name: x.new_empty(0) if getattr(terms, name) is None else total[:, 0] for name, total in sums.items()}
    return Gradients(x=g_x, numerator=g_numerator, denominator=g_denominator, **of)


@potential_backward.register_fake
def _(grad: Tensor, grad_after: Tensor, terms: BPSNTerms, exact_start: bool) -> tuple[Tensor, ...]:
    inputs = terms._replace(denominator=terms.denominator if exact_start else None)._asdict()
    values = [value for name, value in inputs.items() if name not in ("lengths", "normalised")]
    return tuple(terms.x.new_empty(0) if value is None else value.new_empty(value.shape) for value in values)


def _differentiate(ctx: Any, grad: Tensor, grad_after: Tensor) -> tuple[Tensor | None, ...]:
    _, terms = kept(ctx, BPSNTerms)
    grads = potential_backward(grad, grad_after, terms, needed(ctx, BPSNTerms, "denominator"))
    return gradients(ctx, BPSNTerms, **Gradients(*grads)._asdict())


potential.register_autograd(_differentiate, setup_context=keep_inputs)
