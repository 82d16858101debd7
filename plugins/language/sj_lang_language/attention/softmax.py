"""Self-attention with spikes and softmax."""

import math
from typing import Any

import torch
from torch import Tensor

from sj_lang.masks import State
from sj_lang_language.attention.dot_product import causal_softmax, whole_softmax
from sj_lang_language.attention.self_attention import SelfAttention


class SoftmaxAttention(SelfAttention):
    """O = gain softmax(scale Q K^T / sqrt(K)) V: Q K^T counts the channels where both tokens fire.

    The rest is `SelfAttention`. scale, gain (ours, the twin has neither): at a firing rate r the
    scores Q K^T / sqrt(K) have a deviation of about r and the averages of V a mean of r: flat
    attention, and too little for a neuron of threshold 1. Both defaults are 1 / r at the rate of
    .15 that BPSN has on currents of unit deviation.
    """

    def __init__(self, *, scale: float = 6.67, gain: float = 6.67, **common: Any) -> None:
        super().__init__(**common)
        self.scale, self.gain = scale, gain

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        dropout, scale = self.dropout if self.training else 0.0, self.scale / math.sqrt(q.shape[-1])
        q = self._query_values(q)
        if not self.causal:
            return self._attended_values(whole_softmax(q, k, v, valid, scale=scale, dropout=dropout)) * self.gain, {}
        o, memory = causal_softmax(q, k, v, valid, state, scale=scale, dropout=dropout)
        return self._attended_values(o) * self.gain, memory

    def _query_values(self, q: Tensor) -> Tensor:
        """The factor of K's spikes: a_k (a_q s + b_q). b_k shifts all scores of a query alike."""
        if self.values is None:
            return q
        a, b = self.values
        return torch.addcmul(b[0], q, a[0]) * a[1]

    def _attended_values(self, o: Tensor) -> Tensor:
        """softmax(...) (a_v s + b_v), where the weights of a token sum to 1."""
        if self.values is None:
            return o
        a, b = self.values
        return torch.addcmul(b[2], o, a[2])
