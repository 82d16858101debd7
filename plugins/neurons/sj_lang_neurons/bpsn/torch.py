"""The potential of BPSN as one torch operator with a hand-written backward: two linear scans and one elementwise pass.

Only the inputs are kept for the backward, which scans again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sj_lang.operators import operator
from sj_lang_neurons.bpsn import torch_passes as passes
from sj_lang_neurons.bpsn.torch_tiles import tiles

INPUTS = (
    "Tensor x, Tensor g0, Tensor threshold, Tensor? lf, Tensor? gf, Tensor? lb, Tensor? gb, Tensor? rho, "
    "Tensor? numerator, Tensor? denominator, Tensor? lengths, bool normalised"
)
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@operator("sj_lang::bpsn", schema=f"({INPUTS}) -> (Tensor, Tensor)")
def bpsn(
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
) -> tuple[Tensor, Tensor]:
    """H - threshold [T, B, C, S], and the numerator of the past after the last valid step [B, C, S].

    x [T, B, C, S], 0 after the valid steps. lengths [B]: the valid steps, which come first; None: all are.
    g0, threshold [C]. lf, gf [C]: decay and gain of the past; lb, gb: of the future; None: without that side.
    rho [C]: the lateral share; None: no lateral term. normalised: False for variant A.
    numerator [B, C, S], denominator [B, C]: of the past before x; None: 0, and no state is carried (empty).
    """
    x, u = x.contiguous(), x.new_empty(x.shape)
    after = x.new_empty(0 if numerator is None else numerator.shape)
    given = (lf, gf, lb, gb, numerator, denominator, lengths, normalised)
    for tile, b, c in tiles(x, *given, arrays=passes.FORWARD_ARRAYS, slopes=False):
        own_after = None if numerator is None else after[b, c]
        passes.forward(tile, g0[c, None], threshold[c, None], _column(rho, c), normalised, u[:, b, c], own_after)
    return u, after


@operator(
    "sj_lang::bpsn_backward",
    schema=f"(Tensor grad, Tensor grad_after, {INPUTS}, bool exact_start) -> ({', '.join(['Tensor'] * 10)})",
)
def bpsn_backward(
    grad: Tensor,
    grad_after: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    exact_start: bool,
) -> Gradients:
    """Gradients of x, g0, ..., denominator; empty for what is None, and for the denominator without `exact_start`."""
    x, grad, g_x = x.contiguous(), grad.contiguous(), x.new_empty(x.shape)
    sums = {name: torch.zeros_like(g0)[:, None] for name in ("g0", "threshold", "lf", "gf", "lb", "gb", "rho")}
    g_numerator = x.new_empty(0 if numerator is None else numerator.shape)
    g_denominator = x.new_zeros(denominator.shape if denominator is not None and exact_start else 0)
    given = (lf, gf, lb, gb, numerator, denominator, lengths, normalised)
    for tile, b, c in tiles(x, *given, arrays=passes.BACKWARD_ARRAYS, slopes=True, exact_start=exact_start):
        own = {name: total[c] for name, total in sums.items()}
        g_after = None if numerator is None else grad_after[b, c]
        g_start, g_d0 = passes.backward(
            tile, grad[:, b, c], g_after, g0[c, None], _column(rho, c), normalised, g_x[:, b, c], own
        )
        if numerator is not None:
            g_numerator[b, c] = g_start
        if exact_start and g_d0 is not None:
            g_denominator[b, c] = g_d0[..., 0]
    optional = {"lf": lf, "gf": gf, "lb": lb, "gb": gb, "rho": rho}
    return (
        g_x,
        sums["g0"][:, 0],
        sums["threshold"][:, 0],
        *(x.new_empty(0) if value is None else sums[name][:, 0] for name, value in optional.items()),
        g_numerator,
        g_denominator,
    )


def _column(parameter: Tensor | None, c: slice) -> Tensor | None:
    return None if parameter is None else parameter[c, None]


@bpsn.register_fake
def _(
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if numerator is None else numerator.shape)


@bpsn_backward.register_fake
def _(
    grad: Tensor,
    grad_after: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    exact_start: bool,
) -> Gradients:
    given = (x, g0, threshold, lf, gf, lb, gb, rho, numerator, denominator if exact_start else None)
    return tuple(x.new_empty(0) if value is None else value.new_empty(value.shape) for value in given)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.normalised = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor, grad_after: Tensor) -> tuple[Tensor | None, ...]:
    exact_start = ctx.needs_input_grad[9]
    grads = bpsn_backward(grad, grad_after, *ctx.saved_tensors, ctx.normalised, exact_start)
    found = [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)]
    return *found, None, None


bpsn.register_autograd(_backward, setup_context=_save)
