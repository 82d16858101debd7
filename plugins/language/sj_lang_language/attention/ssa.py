"""Spiking self-attention without softmax: that of SpikeDecoder, and the same over a whole text."""

from typing import Any

from torch import Tensor

from sj_lang.masks import State
from sj_lang_language.attention.linear import causal_linear, whole_linear
from sj_lang_language.attention.self_attention import SelfAttention


class SpikingSelfAttention(SelfAttention):
    """O = (mask0(Q K^T) V) scale: no softmax, accumulations only.

    mask0 sets what is not causal to 0 (Beger et al. 2026, arXiv 2606.12287); over a whole text
    there is none (Zhou et al. 2022, arXiv 2209.15425). The rest is `SelfAttention`; `dropout` has
    no weights to fall on.

    scale: factor on the attention's output, .125 in both papers. chunk: tokens per chunk of a
    causal one (`attention.linear`); changes memory and speed only.
    """

    def __init__(self, *, scale: float = 0.125, chunk: int = 64, **common: Any) -> None:
        super().__init__(**common)
        if self.qkv.scale is not None:
            raise ValueError("ssa multiplies spikes as they are; set model.scaled=false, or take attention softmax")
        self.scale, self.chunk = scale, chunk

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        if valid is not None:
            k = k.masked_fill(~valid.view(valid.shape[0], *(1,) * (k.dim() - 3), -1, 1), 0)
        if not self.causal:
            return whole_linear(q, k, v) * self.scale, {}
        o, kv = causal_linear(q, k, v, None if state is None else state["kv"], self.chunk)
        return o * self.scale, {"kv": kv}
