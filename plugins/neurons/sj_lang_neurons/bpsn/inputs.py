"""What BPSN's kernels take and return: what the node learns, and the terms of its equations."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class BPSNInputs(NamedTuple):
    """A call of any kernel: `run(inputs, firing) -> BPSNOutputs`. None: absent.

    x [T, B, C, ...]; the parameters [C] are those of the node, in the dtype of its states; a
    threshold of None is 0. numerator [B, C, ...], denominator [B, C]: of the past before x. lengths
    [B]: the valid steps, which come first; None: all are. normalised: not variant A. carries: the
    states after x are wanted. softplus: the threshold is that before its softplus. x may be
    narrower if the kernel says `half`, and a carried state None for zeros if it says `zeros`.
    """

    x: Tensor
    gain_0: Tensor
    threshold: Tensor | None
    decay_f: Tensor | None
    gain_f: Tensor | None
    decay_b: Tensor | None
    gain_b: Tensor | None
    lateral: Tensor | None
    numerator: Tensor | None
    denominator: Tensor | None
    lengths: Tensor | None
    normalised: bool
    carries: bool
    softplus: bool


class BPSNOutputs(NamedTuple):
    """Spikes, or H - threshold without a firing; numerator and denominator if it carries them."""

    out: Tensor
    numerator: Tensor | None
    denominator: Tensor | None


class BPSNTerms(NamedTuple):
    """The inputs as the equations have them, with one axis of places.

    x [T, B, C, S], 0 after the valid steps. g0, threshold [C]. lf, gf [C]: decay and gain of the
    past; lb, gb: of the future; None: without that side. rho [C]: the lateral share of two sides;
    None: no lateral term. numerator [B, C, S] and denominator [B, C]: of the past before x; None:
    0, and no state is carried.
    """

    x: Tensor
    g0: Tensor
    threshold: Tensor
    lf: Tensor | None
    gf: Tensor | None
    lb: Tensor | None
    gb: Tensor | None
    rho: Tensor | None
    numerator: Tensor | None
    denominator: Tensor | None
    lengths: Tensor | None
    normalised: bool


def terms_of(inputs: BPSNInputs) -> BPSNTerms:
    """Logits become decays and shares; differentiable.

    A side alone has M = F (or B), so its lateral term is a part of its gain:
    gf F - rho (g0 + gf) M = (gf - rho (g0 + gf)) F.
    """
    x, threshold, numerator = inputs.x, inputs.threshold, inputs.numerator
    if threshold is None:
        threshold = torch.zeros_like(inputs.gain_0)
    elif inputs.softplus:
        threshold = F.softplus(threshold)
    g0, gf, gb = inputs.gain_0, inputs.gain_f, inputs.gain_b
    rho = None if inputs.lateral is None else inputs.lateral.sigmoid()
    if rho is not None and gb is None and gf is not None:
        gf, rho = gf - rho * (g0 + gf), None
    elif rho is not None and gf is None and gb is not None:
        gb, rho = gb - rho * (g0 + gb), None
    flat = x.unsqueeze(3) if x.dim() == 3 else x.flatten(3)
    return BPSNTerms(
        x=flat,
        g0=g0,
        threshold=threshold,
        lf=_decay(inputs.decay_f),
        gf=gf,
        lb=_decay(inputs.decay_b),
        gb=gb,
        rho=rho,
        numerator=None if numerator is None else numerator.reshape(flat.shape[1:]),
        denominator=inputs.denominator,
        lengths=inputs.lengths,
        normalised=inputs.normalised,
    )


def results_of(terms: BPSNTerms) -> tuple[Tensor, Tensor]:
    """Memory for results on terms: [T, B, C, S], and the numerator after them, or empty."""
    x, numerator = terms.x, terms.numerator
    return x.new_empty(x.shape), x.new_empty(0 if numerator is None else numerator.shape)


def outputs_of(inputs: BPSNInputs, terms: BPSNTerms, out: Tensor, after: Tensor) -> BPSNOutputs:
    """An operator's results on terms, in the node's shapes. after: the numerator after x."""
    x, lf, denominator, lengths = inputs.x, terms.lf, terms.denominator, terms.lengths
    out = out.view(x.shape)
    if not inputs.carries:
        return BPSNOutputs(out, None, None)
    ones = None
    if lf is not None and denominator is not None:
        n = torch.full_like(denominator[:, :1], x.shape[0]) if lengths is None else lengths[:, None]
        log = n * lf.log()
        ones = log.exp() * denominator - torch.expm1(log) / (1 - lf)
    return BPSNOutputs(out, after.view(x.shape[1:]).clone(), ones)  # detach_net fails on a view


def _decay(logit: Tensor | None) -> Tensor | None:
    """The decay, inside (0, 1) even if the sigmoid saturates."""
    if logit is None:
        return None
    kind = torch.finfo(logit.dtype)
    return logit.sigmoid().clamp(kind.tiny, 1 - kind.eps / 2)
