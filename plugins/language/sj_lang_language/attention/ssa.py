"""Spiking self-attention without softmax: that of SpikeDecoder, and the same over a whole text."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sj_lang.masks import State
from sj_lang_language.attention.linear import causal_linear, whole_linear
from sj_lang_language.attention.self_attention import SelfAttention

#: tokens after which the state of the first and the last head is 1 / e
SHORTEST, LONGEST = 16.0, 1024.0


class SpikingSelfAttention(SelfAttention):
    """O = (mask0(Q K^T) V) scale: no softmax, accumulations only.

    mask0 sets what is not causal to 0 (Beger et al. 2026, arXiv 2606.12287); over a whole text
    there is none (Zhou et al. 2022, arXiv 2209.15425). The rest is `SelfAttention`; `dropout` has
    no weights to fall on.

    scale: factor on the attention's output, .125 in both papers. chunk: tokens per chunk of a
    causal one (`attention.linear`), None: chosen by the length; changes memory and speed only.
    decay: how a head forgets (ours): S_t = g_t S_(t-1) + K_t^T V_t.
        "constant": log g_t = -r, one learned r > 0 for each head.
        "input": log g_t = -sum_c r_c K_tc, so each spike of a key is a step of forgetting, and a
        token whose key is silent changes nothing; one learned r_c > 0 for each channel of a key.
    """

    def __init__(
        self,
        *,
        scale: float = 0.125,
        chunk: int | None = None,
        decay: Literal["none", "constant", "input"] = "none",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if self.qkv.scale is not None:
            raise ValueError("ssa multiplies spikes as they are; set model.scaled=false, or take attention softmax")
        if chunk is not None and chunk < 1:
            raise ValueError(f"ssa: chunk is {chunk}, expected 1 or more")
        if decay != "none" and not self.causal:
            raise ValueError("ssa: decay is of causal models; a text that is read as a whole has no past to forget")
        self.scale, self.chunk, self.decay = scale, chunk, decay
        width = self.qkv.channels // (3 * self.heads)
        shape = {"none": None, "constant": (self.heads,), "input": (self.heads, width)}[decay]
        self.log_rate = None if shape is None or self.twin else nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Heads remember 16 to 1,024 tokens, with "input" at a firing rate of .1."""
        if self.log_rate is None:
            return
        places = torch.linspace(0, 1, self.heads) if self.heads > 1 else torch.tensor([0.5])
        rates = -(math.log(SHORTEST) + places * math.log(LONGEST / SHORTEST))
        if self.decay == "input":
            rates = (rates - math.log(0.1 * self.log_rate.shape[1])).unsqueeze(1).expand_as(self.log_rate)
        init.copy_(self.log_rate, rates)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        if valid is not None:
            valid = valid.view(valid.shape[0], *(1,) * (k.dim() - 3), -1)
            k = k.masked_fill(~valid.unsqueeze(-1), 0)
        if not self.causal:
            return whole_linear(q, k, v) * self.scale, {}
        past = None if state is None else state["kv"]
        o, kv = causal_linear(q, k, v, past, self.chunk, self._log_decay(k, valid))
        return o * self.scale, {"kv": kv}

    def _log_decay(self, k: Tensor, valid: Tensor | None) -> Tensor | None:
        """log g of each token, `[B, H, L]` or `[B, T, H, L]`, 0 where it is not valid."""
        if self.log_rate is None:
            return None
        rates = self.log_rate.exp()
        if self.decay == "input":  # keys that are not valid are 0; a spike below 0 does not remind
            return -(k.clamp_min(0).to(rates.dtype) @ rates.unsqueeze(-1)).squeeze(-1)
        past = -rates.unsqueeze(-1).expand(k.shape[:-1])
        return past if valid is None else past * valid
