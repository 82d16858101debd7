"""Self-attention with spikes and softmax."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sj_lang_language.attention.dot_product import causal_softmax, whole_softmax
from sj_lang_language.attention.self_attention import SelfAttention
from sj_lang_language.firing import MakeNeuron, State


class SoftmaxAttention(SelfAttention):
    """O = gain softmax(Q K^T scale) V, of spikes Q, K, V: Q K^T counts the channels in which both of two tokens fire.

    The rest, and the arguments that are handed in, are `SelfAttention`'s.

    scale: factor on Q K^T; None: 1 / sqrt(K). gain (ours): an average of spikes is at most as large as a spike, and the
    neuron behind it has a threshold of 1 as a rule; the twin has none.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        neuron: MakeNeuron,
        norm: Callable[..., nn.Module] | None = None,
        branch_norm: Callable[..., nn.Module] | None = None,
        bias: bool = False,
        twin: bool = False,
        causal: bool = True,
        core: bool = False,
        dropout: float = 0.0,
        scale: float | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__(
            dim=dim,
            heads=heads,
            neuron=neuron,
            norm=norm,
            branch_norm=branch_norm,
            bias=bias,
            twin=twin,
            causal=causal,
            core=core,
            dropout=dropout,
        )
        self.scale, self.gain = scale, gain

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        dropout = self.dropout if self.training else 0.0
        if not self.causal:
            return whole_softmax(q, k, v, valid, scale=self.scale, dropout=dropout) * self.gain, {}
        o, memory = causal_softmax(q, k, v, valid, state, scale=self.scale, dropout=dropout)
        return o * self.gain, memory
