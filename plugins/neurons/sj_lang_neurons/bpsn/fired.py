"""BPSN's torch operator and the firing after it, in the terms that all kernels of the node share."""

from __future__ import annotations

from torch import Tensor, nn

from sj_lang_neurons.bpsn.firing import fire
from sj_lang_neurons.bpsn.torch import bpsn as potential


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
    *,
    surrogate: nn.Module | None,
) -> tuple[Tensor, Tensor]:
    """Spikes, or H - threshold without a surrogate, and the numerator after the last valid step; see `torch.bpsn`."""
    given = (x, g0, threshold, lf, gf, lb, gb, rho, numerator, denominator, lengths, normalised)
    u, after = potential(*given)
    return (u if surrogate is None else fire(u, surrogate)), after
