"""The quantiser of variant K: integrate-and-fire with soft reset, in integers, parallel in time."""

import torch
from torch import Tensor

TICKS = 2**24  # of a threshold; what a float32 holds exactly between 0 and 1


def in_ticks(h: Tensor, threshold: Tensor, kappa: float) -> Tensor:
    """r = clip(h / threshold, 0, kappa) in ticks, kappa rounded down, with the clip's gradient."""
    r = (h / threshold).clamp(0.0, int(kappa * TICKS) / TICKS)
    return r + ((r.detach() * TICKS).round() / TICKS - r.detach())


def counted(r: Tensor, count: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """v_prev + r - 1, the membrane less the threshold before each step fires, and the last count.

    r [T, B, ...] in whole ticks; count [B, ...] = C modulo 1 before it. v_prev = frac(C_prev + 1/2)
    has no gradient.
    """
    ticks = (r.detach() * TICKS).long()
    if lengths is not None:
        valid = torch.arange(r.shape[0], device=r.device)[:, None] < lengths
        ticks = ticks.masked_fill(~valid.view(valid.shape + (1,) * (r.dim() - 2)), 0)
    after = (count.detach() * TICKS).long() + ticks.cumsum(0)
    v = (after - ticks + TICKS // 2) % TICKS
    last = (after[-1] % TICKS).to(r.dtype) / TICKS
    if lengths is not None:  # a sequence without a valid step hands its count on, gradient and all
        last = torch.where((lengths > 0).view(-1, *(1,) * (last.dim() - 1)), last, count)
    return v.to(r.dtype) / TICKS - 1 + r, last
