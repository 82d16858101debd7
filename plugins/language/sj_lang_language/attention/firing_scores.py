"""Self-attention without softmax, whose scores are spikes."""

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sj_lang.masks import State
from sj_lang_language.attention.self_attention import SelfAttention

# Starts of the calibration, in deviations of the scores: thresholds, and steps times levels / 2.
THRESHOLDS = (-1.0, -0.5, 0.0, 0.4, 0.8, 1.2, 1.6)
STEPS = (0.5, 1.0, 2.0)


class FiringScoresAttention(SelfAttention):
    """P = clip(round((Q K^T / sqrt(K) - t) / g), 0, levels);  O = P V / max(sum P, 1).

    Scores fire, so P V counts spikes with spikes; the division by the number of spikes of a query
    takes the place of softmax's. A query whose scores are silent gets 0. It reads the whole text.
    It is ours, for weights that were trained with softmax: t and g, one for each head, learn how
    high a score must be. The gradient of P is straight through if its argument lies in 0 to levels.

    levels: the largest score, 1 or more. The rest is `SelfAttention`; `dropout` has no weights to
    fall on.
    """

    def __init__(self, *, levels: int = 4, **common: Any) -> None:
        super().__init__(**common)
        if self.causal:
            raise ValueError("firing_scores reads a text as a whole; a causal model takes softmax or ssa")
        if levels < 1:
            raise ValueError(f"firing_scores: levels is {levels}, expected 1 or more")
        self.levels = levels
        self.threshold = None if self.twin else nn.Parameter(torch.empty(self.heads))
        self.log_step = None if self.twin else nn.Parameter(torch.empty(self.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """t = 0, g = 2 / levels."""
        if self.threshold is not None and self.log_step is not None:
            init.zeros_(self.threshold)
            init.constant_(self.log_step, math.log(2 / self.levels))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):  # bfloat16 cannot count beyond 256
            return self._attended(self._scores(q.to(dtype), k.to(dtype)), v.to(dtype), valid), {}

    @torch.no_grad()
    def fit(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, target: Tensor) -> None:
        """Choose, among a few, the t and g of each head that bring O nearest to `target`."""
        assert self.threshold is not None
        assert self.log_step is not None
        dtype = torch.promote_types(q.dtype, torch.float32)
        scores = self._scores(q.to(dtype), k.to(dtype))
        pairs = scores if valid is None else scores.masked_fill(~_pairs(valid), math.nan)
        spread = torch.nanmean(pairs.square(), dim=(0, 2, 3)) - torch.nanmean(pairs, dim=(0, 2, 3)).square()
        deviation = spread.clamp_min(1e-12).sqrt()
        tokens = torch.ones_like(target[:, :1, :, :1], dtype=torch.bool) if valid is None else valid[:, None, :, None]
        best = torch.full_like(deviation, torch.inf)
        threshold, log_step = self.threshold.clone(), self.log_step.clone()
        for at, size in product(THRESHOLDS, STEPS):
            self.threshold.copy_(at * deviation)
            self.log_step.copy_((size * deviation * 2 / self.levels).log())
            wrong = (self._attended(scores, v.to(dtype), valid) - target).square()
            error = (wrong * tokens).mean(dim=(0, 2, 3))
            threshold = torch.where(error < best, self.threshold, threshold)
            log_step = torch.where(error < best, self.log_step, log_step)
            best = torch.minimum(error, best)
        self.threshold.copy_(threshold)
        self.log_step.copy_(log_step)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Q K^T / sqrt(K), `[B, H, L, L]`. The right operand is the spikes of K, unscaled."""
        root = math.sqrt(q.shape[-1])
        if self.values is None:
            return q @ k.mT / root
        a, b = self.values
        q = torch.addcmul(b[0], q, a[0])
        return ((q * a[1]) @ k.mT + (q * b[1]).sum(-1, keepdim=True)) / root

    def _attended(self, scores: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """O of scores, before they fire."""
        assert self.threshold is not None
        assert self.log_step is not None
        threshold, step = self.threshold[:, None, None], self.log_step.exp()[:, None, None]
        spikes: Tensor = Counts.apply((scores - threshold) / step, self.levels)
        if valid is not None:
            keys = valid.view(len(valid), *(1,) * (spikes.dim() - 2), -1)
            spikes = spikes.masked_fill(~keys, 0)
        number = spikes.sum(-1, keepdim=True)
        share = 1 / number.clamp_min(1)
        o: Tensor = spikes @ v * share
        if self.values is None:
            return o
        a, b = self.values
        return o * a[2] + b[2] * (number * share)


class Counts(torch.autograd.Function):
    """clip(round(u), 0, levels), with the gradient 1 where 0 <= u <= levels, else 0."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward((u >= 0) & (u <= levels))
        return u.round().clamp_(0, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def _pairs(valid: Tensor) -> Tensor:
    """`[B, 1, L, L]`, True where query and key are tokens."""
    return valid[:, None, :, None] & valid[:, None, None]
