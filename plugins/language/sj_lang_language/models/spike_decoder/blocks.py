"""The blocks of a SpikeDecoder: attention and MLP on a stream, with neurons on it or not."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sj_lang.masks import State
from sj_lang_language.layers import (
    MakeAttention,
    MakeNeuron,
    MakeNorm,
    SpikingLayer,
    SpikingLinear,
    absorb,
    float_in_place_of_spikes,
    gelu_in_place_of_spikes,
    inner,
    joined,
)
from sj_lang_language.models.common import asked_if
from sj_lang_language.models.spike_decoder.config import SpikeDecoderConfig


class SpikingMLP(nn.Module):
    """y = Norm(Linear(N(Norm(Linear(N(x)))))); the ANN twin has GELU for the inner N."""

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        neuron: MakeNeuron,
        norm: MakeNorm | None,
        branch_norm: MakeNorm | None = None,
        bias: bool = False,
        input_norm: MakeNorm | None = None,
        twin: bool = False,
    ) -> None:
        super().__init__()
        self.input_norm = None if input_norm is None else input_norm(dim=dim)
        self.input = SpikingLayer(neuron=float_in_place_of_spikes if twin else neuron, channels=dim)
        self.up_proj = SpikingLinear(self.input, hidden, bias=bias)
        self.up_norm = None if norm is None else norm(dim=hidden)
        self.hidden = SpikingLayer(neuron=gelu_in_place_of_spikes if twin else neuron, channels=hidden)
        self.down_proj = SpikingLinear(self.hidden, dim, bias=bias)
        last = branch_norm or norm
        self.down_norm = None if last is None else last(dim=dim)

    def forward(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        x = x if self.input_norm is None else self.input_norm(x, mask)
        s, input_state = self.input(x, inner(state, "input"), mask)
        h = self.up_proj(s)
        h = h if self.up_norm is None else self.up_norm(h, mask)
        h, hidden_state = self.hidden(h, inner(state, "hidden"), mask)
        y = self.down_proj(h)
        y = y if self.down_norm is None else self.down_norm(y, mask)
        return y, joined(input=input_state, hidden=hidden_state)

    def fold(self) -> None:
        """Let each Linear absorb the norm after it. UserError if one cannot be absorbed."""
        absorb((self.up_proj, self.up_norm), (self.down_proj, self.down_norm))
        self.up_norm = self.down_norm = None


class SpikeDecoderBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """x = x + SMHA(x); x = x + MLP(x), with neurons on the stream if the config says so.

    fires_first: neurons after the attention whatever `residual` says.
    """

    def __init__(
        self,
        config: SpikeDecoderConfig,
        *,
        attention: MakeAttention,
        neuron: MakeNeuron,
        norm: MakeNorm,
        fires_first: bool = False,
    ) -> None:
        super().__init__()
        dim = config.hidden_size
        parts: dict[str, Any] = {"dim": dim, "neuron": neuron, "norm": None if config.folded else norm}
        if config.folded:
            parts["bias"] = True
        elif config.branch_gain != 1:
            parts["branch_norm"] = partial(norm, gain=config.branch_gain)
        if config.input_norm:
            parts["input_norm"] = norm
        ours: dict[str, Any] = {"attended_norm": norm} if config.attended_norm else {}
        ours |= {"delayed_keys": True} if config.delayed_keys else {}
        self.attention = attention(heads=config.num_attention_heads, **parts, **ours, **asked_if(config.is_float(2)))
        self.mlp = SpikingMLP(hidden=config.mlp_ratio * dim, **parts, **asked_if(config.is_float(3)))
        fires = {"before_attention": config.residual == 2, "after_attention": config.residual == 2 or fires_first}
        fires |= {"before_mlp": config.residual > 0, "after_mlp": config.residual > 0}
        places = [place for place, present in fires.items() if present and not config.is_float(2)]
        #: the neurons on the stream, if there are any
        self.stream = nn.ModuleDict({place: SpikingLayer(neuron=neuron, channels=dim) for place in places})
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        states: dict[str, State] = {}
        for name, branch in (("attention", self.attention), ("mlp", self.mlp)):
            x, states[f"before_{name}"] = self._fire(f"before_{name}", x, state, mask)
            y, states[name] = branch(x, inner(state, name), mask)
            y, states[f"after_{name}"] = self._fire(f"after_{name}", y, state, mask)
            x = x + self.dropout(y)
        return x, joined(**states)

    def _fire(self, place: str, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """x, or its spikes if there are neurons at this place of the stream."""
        if place not in self.stream:
            return x, {}
        spikes, after = self.stream[place](x, inner(state, place), mask)
        return spikes, after
