"""BPSN's operators and the firing in or after them, in the terms that all kernels of the node share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sj_lang_neurons import surrogates
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


def firing(operator: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`bpsn` by an operator that fires itself where it can: `operator(*inputs, kind, alpha)` of `surrogates`.

    It returns the spikes, or H - threshold, and the numerator; what else it returns is its own.
    """

    def fused(*given: Any, surrogate: nn.Module | None) -> tuple[Tensor, Tensor]:
        known = None if surrogate is None else surrogates.heaviside(surrogate)
        out, after, *_ = operator(*given, *(known or (surrogates.POTENTIALS, 0.0)))
        return (out if known or surrogate is None else fire(out, surrogate)), after

    return fused
