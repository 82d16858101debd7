"""What self-attention shares: projections, neurons, layouts. A subclass says how tokens meet."""

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang_language.attention.dot_product import causal_softmax, whole_softmax
from sj_lang_language.layers import (
    MakeNeuron,
    MakeNorm,
    SpikingLayer,
    SpikingLinear,
    absorb,
    float_in_place_of_spikes,
    inner,
    joined,
)


class SelfAttention(nn.Module):
    """s = N(x);  Q, K, V = N(Norm(Linear(s)));  O = mix(Q, K, V);  y = Norm(Linear(N(O))).

    Ours, both off by default: keys that look back, K_t = N(Norm(Linear(s_(t-1)))), and a
    normalization of what enters a layer of neurons as a sum, N(Norm(x)) and N(Norm(O)).

    N is a layer of neurons. A subclass gives `mix`; the ANN twin has softmax(Q K^T / sqrt(K)) V and
    no neurons. All arguments are handed in by the model.

    dim: D. heads: H, each K = D / H wide. neuron: builds a node. norm: builds a normalization;
    None: without one. branch_norm: builds the last normalization; None: `norm` does. bias: of the
    Linear layers. twin: the ANN twin. causal: each token meets itself and those before it; False:
    all tokens of the text. core: the neurons in front, if the model fires them and projects O
    itself; then x are their spikes, and only Q, K, V and O are computed here. dropout: probability,
    on softmax's weights. scaled: the spikes of Q, K and V stand for values, see `SpikingLayer`;
    `mix` gets the spikes and heeds their values. delayed_keys: keys are of the token before, in
    front of the first zeros, so that a query finds what followed an earlier token of its kind.
    input_norm, attended_norm: build the normalization of x and of O; None: without one.
    """

    handed_in = frozenset(
        {"dim", "heads", "neuron", "norm", "branch_norm", "bias", "twin", "causal", "core", "dropout", "scaled"}
        | {"delayed_keys", "input_norm", "attended_norm"}
    )

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        neuron: MakeNeuron,
        norm: MakeNorm | None = None,
        branch_norm: MakeNorm | None = None,
        bias: bool = False,
        twin: bool = False,
        causal: bool = True,
        core: SpikingLayer | None = None,
        dropout: float = 0.0,
        scaled: bool = False,
        delayed_keys: bool = False,
        input_norm: MakeNorm | None = None,
        attended_norm: MakeNorm | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{type(self).__name__}: heads {heads} must divide dim {dim}")
        self.heads, self.twin, self.causal, self.core, self.dropout = heads, twin, causal, core is not None, dropout
        if (delayed_keys or input_norm or attended_norm) and not (causal and core is None):
            raise ValueError(
                f"{type(self).__name__}: delayed_keys, input_norm and attended_norm need a causal model in which "
                "attention is a branch of its own"
            )
        self.delayed_keys = delayed_keys
        self.input_norm = None if input_norm is None else input_norm(dim=dim)
        self.attended_norm = None if attended_norm is None else attended_norm(dim=dim)
        neuron = float_in_place_of_spikes if twin else neuron
        if core is None:
            self.input = SpikingLayer(neuron=neuron, channels=dim)
        in_front = self.input if core is None else core
        self.query, self.key, self.value = (SpikingLinear(in_front, dim, bias=bias) for _ in range(3))
        self.qkv_norms = None if norm is None else nn.ModuleList(norm(dim=dim) for _ in range(3))
        self.qkv = SpikingLayer(neuron=neuron, channels=3 * dim, scaled=scaled)
        if core is None:
            self.attended = SpikingLayer(neuron=neuron, channels=dim)
            self.out_proj = SpikingLinear(self.attended, dim, bias=bias)
            last = branch_norm or norm
            self.out_norm = None if last is None else last(dim=dim)

    def fold(self) -> None:
        """Let each Linear absorb the norm after it. UserError if one cannot be absorbed."""
        linears = (self.query, self.key, self.value)
        absorb(*zip(linears, self.qkv_norms or (), strict=False), (self.out_proj, self.out_norm))
        self.qkv_norms = self.out_norm = None

    def mix(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """How tokens meet: Q, K, V `[B, H, L, K]` or `[B, T, H, L, K]` to O of that shape.

        valid: `[B, L]`, None for all. A causal one also takes and returns the state of the tokens
        before, batch on axis 0; others return {}.
        """
        raise TypeError(f"{type(self).__name__} does not say how tokens meet")

    @property
    def values(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of the spikes of Q, K, V, `[3, H, 1, K]` each; None if not `scaled`."""
        scale, shift = self.qkv.scale, self.qkv.shift
        if scale is None or shift is None:
            return None
        return torch.unflatten(scale, 0, (3, self.heads, 1, -1)), torch.unflatten(shift, 0, (3, self.heads, 1, -1))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Returns y, shaped as x `[L, B, D]` or `[T, B, L, D]`, and the state, {} if not causal."""
        if state is not None and not self.causal:
            raise ValueError(f"{type(self).__name__}: a text that is read as a whole cannot continue from a state")
        states: dict[str, State] = {}
        if not self.core:
            x = x if self.input_norm is None else self.input_norm(x, mask)
            x, states["input"] = self.input(x, inner(state, "input"), mask)
        before = x
        if self.delayed_keys:
            before, states["delay"] = one_token_late(x, inner(state, "delay"), mask)
        currents = [self.query(x), self.key(before), self.value(x)]
        if self.qkv_norms is not None:
            currents = [norm(current, mask) for norm, current in zip(self.qkv_norms, currents, strict=True)]
        qkv, states["qkv"] = self.qkv(torch.cat(currents, dim=-1), inner(state, "qkv"), mask)
        y, states["memory"] = self._attend(qkv, inner(state, "memory"), mask)
        if not self.core:
            y = y if self.attended_norm is None else self.attended_norm(y, mask)
            y, states["attended"] = self.attended(y, inner(state, "attended"), mask)
            y = self.out_proj(y)
            y = y if self.out_norm is None else self.out_norm(y, mask)
        return y, joined(**states) if self.causal else {}

    def _attend(self, qkv: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Q, K, V `[L, B, 3D]` or `[T, B, L, 3D]` to O `[L, B, D]` or `[T, B, L, D]`."""
        parts = torch.unflatten(qkv, -1, (3, self.heads, -1))
        if qkv.dim() == 3:
            q, k, v = parts.permute(2, 1, 3, 0, 4)  # [B, H, L, K] each
            valid = None if mask is None else mask.T  # [B, L]
        else:
            q, k, v = parts.permute(3, 1, 0, 4, 2, 5)  # [B, T, H, L, K] each
            valid = None if mask is None else mask[0]
        o, memory = (self._mix_of_the_twin if self.twin else self.mix)(q, k, v, valid, state)
        back = (2, 0, 1, 3) if qkv.dim() == 3 else (1, 0, 3, 2, 4)
        return o.to(qkv.dtype).permute(back).flatten(-2), memory

    def _mix_of_the_twin(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        dropout = self.dropout if self.training else 0.0
        if self.causal:
            return causal_softmax(q, k, v, valid, state, dropout=dropout)
        return whole_softmax(q, k, v, valid, dropout=dropout), {}


def one_token_late(x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
    """At each token, the x of the last valid token before it; 0 at the first.

    x: `[L, B, D]` or `[T, B, L, D]`; mask: x's shape without D. state: {"x": `[B, D]` or
    `[B, T, D]`, that of the last valid token so far}.
    """
    tokens = x if x.dim() == 3 else x.permute(2, 1, 0, 3)  # [L, B, ...]
    first = torch.zeros_like(tokens[:1]) if state is None else state["x"].to(x.dtype).unsqueeze(0)
    sequence = torch.cat([first, tokens])
    if mask is None:
        late, last = sequence[:-1], sequence[-1]
    else:
        valid = mask if x.dim() == 3 else mask[0].T  # [L, B]
        places = torch.arange(1, len(valid) + 1, device=x.device)[:, None] * valid
        # indices into `sequence`
        latest = torch.cat([torch.zeros_like(places[:1]), places.cummax(0).values])
        chosen = latest.view(*latest.shape, *[1] * (tokens.dim() - 2)).expand(-1, -1, *tokens.shape[2:])
        gathered = sequence.gather(0, chosen)
        late, last = gathered[:-1], gathered[-1]
    return (late if x.dim() == 3 else late.permute(2, 1, 0, 3)), {"x": last}
