"""BPSN's operators as kernels of the node: for the parameters that it learns, with the firing in or after them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sj_lang_neurons import surrogates
from sj_lang_neurons.bpsn.firing import fire
from sj_lang_neurons.bpsn.torch import bpsn as potential

Operator = Callable[..., Any]


def of_node(operator: Operator) -> Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]:
    """The kernel by an operator on decays, shares and thresholds, x [T, B, C, S]: `operator(*inputs, surrogate)`."""

    def bpsn(
        x: Tensor,
        gain_0: Tensor,
        threshold: Tensor | None,
        decay_f: Tensor | None,
        gain_f: Tensor | None,
        decay_b: Tensor | None,
        gain_b: Tensor | None,
        lateral: Tensor | None,
        numerator: Tensor | None,
        denominator: Tensor | None,
        lengths: Tensor | None,
        normalised: bool,
        carries: bool,
        *,
        surrogate: nn.Module | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Spikes, or H - threshold without a surrogate, and if it carries a state, the numerator and, normalised, the
        denominator after the last valid step; see `torch.bpsn`.

        x [T, B, C, ...]. Parameters [C] are those of the node, in the dtype of its states; threshold None: 0.
        """
        flat = x.unsqueeze(3) if x.dim() == 3 else x.flatten(3)
        lf, lb = _decay(decay_f), _decay(decay_b)
        out, after = operator(
            flat,
            gain_0,
            torch.zeros_like(gain_0) if threshold is None else F.softplus(threshold),
            lf,
            gain_f,
            lb,
            gain_b,
            None if lateral is None else lateral.sigmoid(),
            None if numerator is None else numerator.reshape(flat.shape[1:]),
            denominator,
            lengths,
            normalised,
            surrogate,
        )
        out = out.view(x.shape)
        if not carries:
            return out, None, None
        ones = None
        if lf is not None and denominator is not None:
            n = torch.full_like(denominator[:, :1], x.shape[0]) if lengths is None else lengths[:, None]
            log = n * lf.log()
            ones = log.exp() * denominator - torch.expm1(log) / (1 - lf)
        return out, after.view(x.shape[1:]).clone(), ones  # detach_net fails on a view

    return bpsn


def _decay(logit: Tensor | None) -> Tensor | None:
    """The decay inside (0, 1), where a saturated sigmoid would leave it."""
    if logit is None:
        return None
    kind = torch.finfo(logit.dtype)
    return logit.sigmoid().clamp(kind.tiny, 1 - kind.eps / 2)


def _fired(*given: Any) -> tuple[Tensor, Tensor]:
    *inputs, surrogate = given
    u, after = potential(*inputs)
    return (u if surrogate is None else fire(u, surrogate)), after


bpsn = of_node(_fired)


def firing(operator: Operator) -> Operator:
    """An operator that fires itself where it can, `operator(*inputs, kind, alpha)` of `surrogates`, with its surrogate
    as the last argument. It returns spikes or H - threshold first."""

    def fused(*given: Any) -> tuple[Any, ...]:
        *inputs, surrogate = given
        known = None if surrogate is None else surrogates.heaviside(surrogate)
        out, *others = operator(*inputs, *(known or (surrogates.POTENTIALS, 0.0)))
        return (out if known or surrogate is None else fire(out, surrogate)), *others

    return fused
