"""What SNN-BERT computes: from token ids to one vector per token and one per text.

    x = embedding(ids, positions, segments)                        floats
    s = N(x);  Q, K, V = N(Linear(s));  O = attention(Q, K, V)     per layer
    x = Norm(r + Linear(N(O)))                                     r = x; with residual "spikes", s
    s = N(x);  x = Norm(r + Linear(N(GELU(Linear(s)))))            GELU may be dropped

N is a layer of neurons: what enters a Linear of a layer are spikes. Shapes: time first inside,
`[L, B, D]` (individual coding) or `[T, B, L, D]` (repeat coding); `[B, L]` outside. Modules and
tensors have the names that BERT's have in transformers, so a checkpoint of BERT finds its places by
itself.

Padding is removal. Inside, the tokens of a text stand first, wherever its padding was: positions
count tokens, the first one is that of the pooler, and what is returned stands where the tokens
stood.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from sj_lang import masks
from sj_lang.errors import UserError
from sj_lang_language.layers import (
    MakeAttention,
    MakeNeuron,
    MakeNorm,
    SpikingLayer,
    SpikingLinear,
    float_in_place_of_spikes,
    outside,
)
from sj_lang_language.models.calibration import calibrate
from sj_lang_language.models.common import SpikingModel, asked_if, component, inputs_of
from sj_lang_language.models.snn_bert.config import SNNBertConfig

#: Share of the neurons that fire at a token, by which fresh weights are drawn: BPSN's on currents
#: of unit deviation.
RATE = 0.15


class SNNBertOutput(nn.Module):
    """y = Norm(residual + Linear(N(x))), the end of both branches."""

    def __init__(self, config: SNNBertConfig, *, width: int, neuron: MakeNeuron, norm: MakeNorm) -> None:
        super().__init__()
        self.neuron = SpikingLayer(neuron=neuron, channels=width, scaled=config.scaled)
        self.dense = SpikingLinear(self.neuron, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = norm(dim=config.hidden_size)

    def forward(self, x: Tensor, residual: Tensor, mask: Tensor | None) -> Tensor:
        spikes, _ = self.neuron(x, None, mask)
        y: Tensor = self.LayerNorm(residual + self.dropout(self.dense(spikes)), mask)
        return y


class SNNBertAttention(nn.Module):
    """x = Norm(r + Linear(N(attention(N(x)))))."""

    def __init__(self, config: SNNBertConfig, *, attention: MakeAttention, neuron: MakeNeuron, norm: MakeNorm) -> None:
        super().__init__()
        self.spiking_residual = config.residual == "spikes"
        self.neuron = SpikingLayer(neuron=neuron, channels=config.hidden_size, scaled=config.scaled)
        self.self = attention(
            dim=config.hidden_size,
            heads=config.num_attention_heads,
            neuron=neuron,
            norm=None,
            bias=True,
            causal=False,
            core=self.neuron,
            dropout=config.attention_probs_dropout_prob,
            **asked_if(config.twin),
            **({"scaled": True} if config.scaled and not config.twin else {}),
        )
        self.output = SNNBertOutput(config, width=config.hidden_size, neuron=neuron, norm=norm)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        spikes, _ = self.neuron(x, None, mask)
        o, _ = self.self(spikes, None, mask)
        y: Tensor = self.output(o, spikes if self.spiking_residual else x, mask)
        return y


class SNNBertIntermediate(nn.Module):
    """s = N(x);  h = GELU(Linear(s)), D to `intermediate_size`."""

    def __init__(self, config: SNNBertConfig, *, neuron: MakeNeuron) -> None:
        super().__init__()
        self.neuron = SpikingLayer(neuron=neuron, channels=config.hidden_size, scaled=config.scaled)
        self.dense = SpikingLinear(self.neuron, config.width_inside)
        self.activation = nn.GELU() if config.gelu or config.twin else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns h and s."""
        spikes, _ = self.neuron(x, None, mask)
        return self.activation(self.dense(spikes)), spikes


class SNNBertLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention, then the feed-forward part, each followed by residual and normalization."""

    def __init__(self, config: SNNBertConfig, *, attention: MakeAttention, neuron: MakeNeuron, norm: MakeNorm) -> None:
        super().__init__()
        self.spiking_residual = config.residual == "spikes"
        self.attention = SNNBertAttention(config, attention=attention, neuron=neuron, norm=norm)
        self.intermediate = SNNBertIntermediate(config, neuron=neuron)
        self.output = SNNBertOutput(config, width=config.width_inside, neuron=neuron, norm=norm)
        if not config.gelu:
            self.output.neuron.replaces = nn.functional.gelu

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)
        h, spikes = self.intermediate(x, mask)
        y: Tensor = self.output(h, spikes if self.spiking_residual else x, mask)
        return y


class SNNBertEncoder(nn.Module):
    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__()
        parts: dict[str, Any] = {kind: component(config, kind) for kind in ("attention", "norm")}
        parts["neuron"] = float_in_place_of_spikes if config.twin else component(config, "neuron")
        self.layer = nn.ModuleList(SNNBertLayer(config, **parts) for _ in range(config.num_hidden_layers))


class SNNBertPooler(nn.Module):
    """p = tanh(Linear(the first token | the mean | the maximum over the tokens))."""

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x `[B, L, D]`, tokens first, to `[B, D]`; an empty text gives what zeros give."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        if self.pooling == "cls":
            pooled = x[:, 0]
        elif self.pooling == "mean":
            pooled = x.mean(1) if mask is None else x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        elif mask is None:
            pooled = x.amax(1)
        else:
            # a text always keeps one position, so that its maximum is finite
            left_out = ~mask & (mask | (torch.arange(mask.shape[1], device=mask.device) > 0))
            pooled = x.masked_fill(left_out[..., None], -torch.inf).amax(1)
        return torch.tanh(self.dense(pooled))


class SNNBertPreTrainedModel(SpikingModel, PreTrainedModel):  # type: ignore[misc]
    """What all SNN-BERT models share."""

    config_class = SNNBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SNNBertLayer"]  # noqa: RUF012  # transformers reads a list here

    def initial_std(self, module: nn.Module) -> float:
        if self.config.initializer_range is not None or getattr(module, "std", None) is not None:
            return super().initial_std(module)
        if isinstance(module, SpikingLinear) and module.neurons.spiking:
            return 1 / math.sqrt(RATE * module.in_features)
        return 0.02

    def calibrate(
        self, twin: PreTrainedModel, batch: Mapping[str, Tensor], *, spike_price: float = 0.0
    ) -> dict[str, float]:
        """`calibration.calibrate` of this model towards its ANN twin, on one batch."""
        return calibrate(self, twin, batch, spike_price=spike_price)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the scales and shifts of spikes into the Linear layers that follow, up to rounding.

        Those of Q, K and V stay, because spikes meet spikes there: `a_k (a_q s + b_q)` meets the
        spikes of K.
        """
        for layer in [module for module in self.modules() if isinstance(module, SpikingLayer)]:
            readers = [one for one in self.modules() if isinstance(one, SpikingLinear) and one.neurons is layer]
            if layer.scale is None or layer.shift is None or not readers:
                continue
            for linear in readers:
                weight, bias = linear.folded()
                linear.weight.copy_(weight)
                if bias is not None:
                    linear.bias.copy_(bias)
            layer.scale.fill_(1)  # not reset_parameters(), which keeps what a checkpoint has filled
            layer.shift.zero_()

    @property
    def embedding(self) -> Any:
        return self.base_model.embeddings


class SNNBertModel(SNNBertPreTrainedModel):
    """SNN-BERT without a head. add_pooling_layer: with the vector that stands for the text."""

    def __init__(self, config: SNNBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = component(config, "embedding")(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            max_length=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            dropout=config.hidden_dropout_prob,
            eps=config.layer_norm_eps,
            **asked_if(config.twin),
        )
        self.encoder = SNNBertEncoder(config)
        self.pooler = SNNBertPooler(config) if add_pooling_layer else None
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **more: Any,
    ) -> BaseModelOutputWithPooling:
        """Vectors of tokens, `last_hidden_state` `[B, L, D]`, and texts, `pooler_output` `[B, D]`.

        input_ids, attention_mask (0: padding, on any side), token_type_ids (None: 0): `[B, L]`.
        inputs_embeds: `[B, L, D]`, in the place of the rows that input_ids choose.
        output_hidden_states: also the embedding's and each layer's output, 0 at padding; with
        repeat coding, the means over T. Others of BERT's arguments, such as position_ids, have no
        meaning here: they may be None.
        """
        inputs = inputs_of(self, input_ids, inputs_embeds, {"position_ids": position_ids, **more})
        mask, order, back = self._order(attention_mask, inputs)
        ids, vectors, segments = (
            None if x is None else _take(x, order).transpose(0, 1) for x in (input_ids, inputs_embeds, token_type_ids)
        )
        positions = self._positions(inputs, mask)
        valid = None if mask is None else mask.T
        x = self.embed(ids, vectors, positions, segments, valid)  # [L, B, D]

        repeats, inside = self.config.repeats, valid
        if repeats:
            x = x.transpose(0, 1).expand(repeats, -1, -1, -1)  # [T, B, L, D]
            inside = None if mask is None else mask.expand(x.shape[:-1])
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = [x] if keep_hidden else []
        for layer in self.encoder.layer:
            x = layer(x, inside)
            if keep_hidden:
                hidden_states.append(x)

        packed = outside(x)
        return BaseModelOutputWithPooling(
            last_hidden_state=_put_back(packed, mask, back),
            pooler_output=None if self.pooler is None else self.pooler(packed, mask),
            hidden_states=tuple(_put_back(outside(x), mask, back) for x in hidden_states) if keep_hidden else None,
        )

    def _order(
        self, attention_mask: Tensor | None, inputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The mask, tokens first, the order that puts them there and its inverse, `[B, L]`.

        None if all are tokens.
        """
        if attention_mask is None:
            return None, None, None
        if attention_mask.shape != inputs.shape[:2]:
            expected = f"{list(inputs.shape[:2])} as {'input_ids' if inputs.dim() == 2 else 'inputs_embeds'}"
            raise ValueError(f"attention_mask is {list(attention_mask.shape)}, expected {expected}")
        mask = attention_mask.bool()
        if not torch.compiler.is_compiling() and mask.all():
            return None, None, None
        order, back = masks.orders(mask, 1)
        return mask.gather(1, order), order, back

    def _positions(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """`[L, B]`. Padding has no position of its own; it gets the last one, and is not read."""
        longest, length = getattr(self.embeddings, "max_length", None), inputs.shape[1]
        positions = torch.arange(length, device=inputs.device)[:, None].expand(-1, inputs.shape[0])
        if longest is None or length <= longest:
            return positions
        tokens = length if mask is None else int(mask.sum(1).max())
        if tokens > longest:
            raise UserError(
                f"the text is {tokens} tokens long, this SNN-BERT has positions for {longest} "
                "(max_position_embeddings): give fewer tokens"
            )
        return positions.clamp(max=longest - 1)


def _take(x: Tensor, order: Tensor | None) -> Tensor:
    """`[B, L]` or `[B, L, D]` in that order."""
    if order is None:
        return x
    return x.gather(1, order if x.dim() == 2 else order[..., None].expand_as(x))


def _put_back(x: Tensor, mask: Tensor | None, back: Tensor | None) -> Tensor:
    """`[B, L, D]` with the tokens where they stood, and 0 at padding."""
    if mask is None or back is None:
        return x
    x = x.masked_fill(~mask[..., None], 0)
    return x.gather(1, back[..., None].expand_as(x))
