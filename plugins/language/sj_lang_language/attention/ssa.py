"""Spiking self-attention without softmax: SpikeDecoder's SMHA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sj_lang_language.attention.linear import causal_linear
from sj_lang_language.attention.softmax import causal_softmax
from sj_lang_language.firing import Firing, MakeNeuron, State, float_in_place_of_spikes, inner, joined


class SpikingSelfAttention(nn.Module):
    """s = N(x);  Q, K, V = N(Norm(Linear(s)));  O = (mask0(Q K^T) V) scale;  y = Norm(Linear(N(O))).

    N is a layer of neurons, mask0 sets what is not causal to 0. Beger et al. 2026 (arXiv 2606.12287); computed in
    chunks (`attention.linear`), in memory linear in the length.

    dim: D; heads: H, each D / H wide; neuron, norm: build a node and a normalization; branch_norm: builds the last
    normalization, None: `norm` does; twin: the size-matched ANN, softmax(Q K^T / sqrt(D / H)) V without neurons (all
    six are handed in by the model).
    scale: factor on the attention's output, .125 in the paper. chunk: tokens per chunk; changes memory and speed only.
    """

    given = frozenset({"dim", "heads", "neuron", "norm", "branch_norm", "twin"})

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        neuron: MakeNeuron,
        norm: Callable[..., nn.Module],
        branch_norm: Callable[..., nn.Module] | None = None,
        twin: bool = False,
        scale: float = 0.125,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        self.heads, self.twin, self.scale, self.chunk = heads, twin, scale, chunk
        neuron = float_in_place_of_spikes if twin else neuron
        self.input = Firing(neuron=neuron, channels=dim)
        self.qkv_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_norms = nn.ModuleList(norm(dim=dim) for _ in range(3))
        self.qkv = Firing(neuron=neuron, channels=3 * dim)
        self.attended = Firing(neuron=neuron, channels=dim)
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.out_norm = (branch_norm or norm)(dim=dim)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """x: `[L, B, D]` or `[T, B, L, D]`; returns the branch's output, of that shape, and the state."""
        s, input_state = self.input(x, inner(state, "input"), mask)
        parts = self.qkv_proj(s).chunk(3, dim=-1)
        currents = torch.cat([norm(part, mask) for norm, part in zip(self.qkv_norms, parts, strict=True)], dim=-1)
        qkv, qkv_state = self.qkv(currents, inner(state, "qkv"), mask)
        o, memory = self._attend(qkv, inner(state, "memory"), mask)
        o, attended_state = self.attended(o, inner(state, "attended"), mask)
        y = self.out_norm(self.out_proj(o), mask)
        return y, joined(input=input_state, qkv=qkv_state, memory=memory, attended=attended_state)

    def _attend(self, qkv: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Q, K, V `[L, B, 3D]` or `[T, B, L, 3D]` to O `[L, B, D]` or `[T, B, L, D]`."""
        parts = qkv.unflatten(-1, (3, self.heads, -1))
        if qkv.dim() == 3:
            q, k, v = parts.permute(2, 1, 3, 0, 4)  # [B, H, L, K] each
            valid = None if mask is None else mask.T  # [B, L]
        else:
            q, k, v = parts.permute(3, 1, 0, 4, 2, 5)  # [B, T, H, L, K] each
            valid = None if mask is None else mask[0]
        if self.twin:
            o, memory = causal_softmax(q, k, v, valid, state)
        else:
            if valid is not None:
                k = k.masked_fill(~valid.view(len(valid), *(1,) * (k.dim() - 3), -1, 1), 0)
            o, kv = causal_linear(q, k, v, None if state is None else state["kv"], self.chunk)
            o, memory = (o * self.scale).to(qkv.dtype), {"kv": kv}
        back = (2, 0, 1, 3) if qkv.dim() == 3 else (1, 0, 3, 2, 4)
        return o.permute(back).flatten(-2), memory
