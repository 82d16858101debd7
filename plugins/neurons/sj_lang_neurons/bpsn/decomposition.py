"""BPSN's CPU operators in torch's own, for programs that leave sj_lang.

The denominators are carried beside the numerators, as a closed form would lose digits.
"""

import torch
from torch import Tensor

from sj_lang_neurons.bpsn.inputs import BPSNTerms
from sj_lang_neurons.firing import fire
from sj_lang_neurons.scan.decomposition import Tensors, recurrence


def forward(terms: BPSNTerms, kind: int, level: float, lowest: float) -> tuple[Tensor, Tensor]:
    """Spikes or H - threshold, and the numerator after the valid steps, or empty."""
    x, g0, threshold, lf, gf, lb, gb, rho, numerator, denominator, lengths, normalised = terms
    after = x.new_empty(0)
    sides = []
    if lf is not None and gf is not None:
        P, D, last = _side(x, lf, lengths, numerator, denominator, reverse=False)
        sides.append((gf, P, D))
        after = after if numerator is None else last
    if lb is not None and gb is not None:
        P, D, _ = _side(x, lb, lengths, None, None, reverse=True)
        sides.append((gb, P, D))
    h = g0[:, None] * x - threshold[:, None]
    for gain, P, D in sides:
        h = h + gain[:, None] * (_mean(P, D) if normalised else P)
    if rho is not None and normalised:
        gains = g0[:, None] + sum(torch.where(D > 0, gain[:, None], 0) for gain, _, D in sides)
        P, D = sum((P for _, P, _ in sides[1:]), sides[0][1]), sum((D for *_, D in sides[1:]), sides[0][2])
        h = h - rho[:, None] * gains * _mean(P, D)
    return fire(h, kind, level, lowest), after


def _side(
    x: Tensor, decay: Tensor, lengths: Tensor | None, P: Tensor | None, D: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Numerators [T, B, C, S] and denominators [T, B, C, 1] without each step; the last numerator.

    P [B, C, S], D [B, C]: those at the start; None: 0.
    """
    steps, batch, channels, _ = x.shape
    valid = torch.ones(steps, batch, 1, 1, dtype=torch.bool, device=x.device)
    if lengths is not None:
        valid = valid & (torch.arange(steps, device=x.device)[:, None] < lengths)[..., None, None]
    P = torch.zeros_like(x[0]) if P is None else P
    D = x.new_zeros(batch, channels, 1) if D is None else D[..., None]

    def step(P: Tensor, D: Tensor, x: Tensor, valid: Tensor, decay: Tensor) -> Tensors:
        return torch.where(valid, decay * P + x, P), torch.where(valid, decay * D + 1, D), P.clone(), D.clone()

    last, _, P, D = recurrence(step, (P, D), (x, valid), (decay[:, None],), reverse=reverse)
    return P, D, last


def _mean(P: Tensor, D: Tensor) -> Tensor:
    """P / D, 0 where D is 0."""
    return torch.where(D > 0, P / torch.where(D > 0, D, 1), 0)
