"""SpikeDecoder: GPT with spiking neurons, Beger, Walter, Knoll 2026 (arXiv 2606.12287).

    x = embedding(ids, positions)           spikes {0, 1}
    x = x + SMHA(x);  x = x + MLP(x)        per block, on a stream of floats; N in branches: neurons
    SMHA(x) = Norm(Linear(N(mask0(Q K^T) V * scale))),  Q, K, V = N(Norm(Linear(N(x))))
    MLP(x)  = Norm(Linear(N(Norm(Linear(N(x))))))
    logits  = Linear(N(x))

By default this is the fully spiking model (degree 4 of the paper): what enters a Linear are spikes,
there is no softmax. At a lower `degree` the head, the MLPs, attention, the embedding are the ANN's,
in this order. Individual coding (ours) runs the neurons along the tokens, each token computed once;
repeat coding (the paper's) runs them along T copies of each token. Shapes: tokens first inside,
`[L, B, D]` or `[T, B, L, D]`; `[B, L]` outside.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from sj_lang.build import check_neurons
from sj_lang.errors import UserError
from sj_lang.hf.models import register
from sj_lang.masks import State
from sj_lang.operators import is_exporting
from sj_lang.state_cache import StateCache, StatefulGeneration
from sj_lang_language.attention.self_attention import SelfAttention
from sj_lang_language.layers import (
    MakeNeuron,
    Potentials,
    SpikingLayer,
    check_absorbable,
    float_in_place_of_spikes,
    inner,
    joined,
    outside,
)
from sj_lang_language.models.common import SpikingModel, asked_if, component, inputs_of
from sj_lang_language.models.spike_decoder.blocks import SpikeDecoderBlock, SpikingMLP
from sj_lang_language.models.spike_decoder.config import SpikeDecoderConfig


class SpikeDecoderPreTrainedModel(SpikingModel, StatefulGeneration, PreTrainedModel):  # type: ignore[misc]
    """SpikeDecoder up to what its head reads."""

    config_class = SpikeDecoderConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpikeDecoderBlock"]  # noqa: RUF012  # transformers reads a list here

    def __init__(self, config: SpikeDecoderConfig) -> None:
        super().__init__(config)
        check_neurons(config, pads=False)
        made, norm, attention = (component(config, kind) for kind in ("neuron", "norm", "attention"))
        neuron: MakeNeuron = made if config.fires else partial(Potentials, neuron=made)
        dim = config.hidden_size
        self.embedding = component(config, "embedding")(
            vocab_size=config.vocab_size,
            dim=dim,
            max_length=config.max_position_embeddings,
            **asked_if(config.is_float(1)),
        )
        self.layers = nn.ModuleList(
            SpikeDecoderBlock(
                config,
                attention=attention,
                neuron=neuron,
                norm=norm,
                fires_first=config.first_block_fires and place == 0,
            )
            for place in range(config.num_hidden_layers)
        )
        #: channels that a head reads
        self.width = dim * (config.repeats or 1 if config.join == "concatenate" else 1)
        self.fires_joined = config.fires_joined and config.repeats is not None
        self.output_norm = norm(dim=dim) if config.input_norm else None
        self.output = SpikingLayer(
            neuron=float_in_place_of_spikes if config.is_float(4) else neuron,
            channels=self.width if self.fires_joined else dim,
        )

    def encode(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        cache: StateCache | None,
        use_cache: bool | None,
        output_hidden_states: bool | None,
        more: Mapping[str, Any],
    ) -> tuple[BaseModelOutputWithPast, Tensor | None]:
        """The input of the head and all that goes with it, and the tokens' mask `[L, B]`."""
        inputs = inputs_of(self, input_ids, inputs_embeds, more)
        if cache is None and use_cache:
            cache = self.new_cache()
        parts = len(self.layers) + 1
        before = [None if cache is None else cache.read(part) for part in range(parts)]
        seen = 0 if cache is None else cache.get_seq_length()
        mask = self._mask(attention_mask, inputs, cache)
        positions, count = self._positions(mask, inputs, inner(before[-1], "count"), seen)

        ids, vectors = (None if x is None else x.transpose(0, 1) for x in (input_ids, inputs_embeds))
        x = self.embed(ids, vectors, positions, None, mask)  # [L, B, D]
        repeats, inside = self.config.repeats, mask
        if repeats:
            x = x.transpose(0, 1).expand(repeats, -1, -1, -1)  # [T, B, L, D]
            inside = None if mask is None else mask.T.expand(x.shape[:-1])
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = [outside(x)] if keep_hidden else []
        after: list[State] = []
        for layer, state in zip(self.layers, before[:-1], strict=True):
            x, state_after = layer(x, state, inside)
            after.append(state_after)
            if keep_hidden:
                hidden_states.append(outside(x))
        x, output_state = self._read(x, inner(before[-1], "output"), inside)
        after.append(joined(output=output_state, count=count))
        if cache is not None:
            for part, state_after in enumerate(after):
                cache.write(part, state_after, inputs.shape[1])
        states = tuple(hidden_states) if keep_hidden else None
        return BaseModelOutputWithPast(last_hidden_state=x, cache=cache, hidden_states=states), mask

    def _read(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """The input of a head, `[B, L, C]`, and the state of its neurons."""
        x = x if self.output_norm is None else self.output_norm(x, mask)
        if self.fires_joined:
            return self.output(self._joined(x)[None])[0][0], {}
        spikes, after = self.output(x, state, mask)
        return self._joined(spikes), after

    def _joined(self, x: Tensor) -> Tensor:
        """The T steps of repeat coding as one."""
        join = self.config.join if x.dim() == 4 else "average"
        if join == "accumulate":
            return x.sum(0)
        if join == "concatenate":
            return x.permute(1, 2, 0, 3).flatten(2)
        return x[-1] if join == "final" else outside(x)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The branches of each block, which `measure.ablate` replaces by a constant."""
        return {name: [layer.get_submodule(name) for layer in self.layers] for name in ("attention", "mlp")}

    def fold(self) -> None:
        """Let each Linear absorb the batch or power norm after it, as evaluation computes it.

        Outputs stay as they are, up to rounding. The model is stored and loaded folded. UserError
        if a norm cannot be absorbed, before anything is changed.
        """
        config = self.config
        if config.folded:
            return
        check_absorbable(component(config, "norm")(dim=1))
        if config.input_norm or config.attended_norm:
            raise UserError("fold: input_norm and attended_norm have no Linear before them that could absorb them")
        branches = [branch for branches in self.parts().values() for branch in branches]
        for branch in branches:
            if not isinstance(branch, SelfAttention | SpikingMLP):
                raise UserError(f"fold: {type(branch).__name__} has no fold")
        for branch in branches:
            branch.fold()  # type: ignore[operator]
        config.folded = True

    def new_cache(self) -> StateCache:
        """An empty state: one part per block, one for the head and the positions."""
        return StateCache(len(self.layers) + 1)

    @property
    def text_limit(self) -> int | None:
        """The longest text, in tokens; None without a table of positions: any length."""
        limit: int | None = getattr(self.embedding, "max_length", None)
        return limit

    def _mask(self, attention_mask: Tensor | None, inputs: Tensor, cache: StateCache | None) -> Tensor | None:
        """The mask of these tokens, `[L, B]`, None if all are valid."""
        batch, tokens = inputs.shape[:2]
        before = 0 if cache is None else cache.get_seq_length()
        if before and cache is not None and cache.batch_size != batch:
            raise ValueError(f"the cache holds {cache.batch_size} texts, the inputs {batch}")
        if attention_mask is None:
            return None
        if attention_mask.shape not in ((batch, tokens), (batch, before + tokens)):
            raise ValueError(
                f"attention_mask is {list(attention_mask.shape)}, expected [{batch}, {tokens}] for these tokens"
                + (f" or [{batch}, {before + tokens}] with those of the cache" if before else "")
            )
        mask = attention_mask[:, -tokens:].T.bool()
        return None if not is_exporting() and mask.all() else mask

    def _positions(self, mask: Tensor | None, inputs: Tensor, before: State | None, seen: int) -> tuple[Tensor, State]:
        """Positions `[L, B]`, padding not counted, and the number of valid tokens so far, `[B]`."""
        longest = self.text_limit
        batch, tokens = inputs.shape[:2]
        ones = torch.ones(tokens, batch, dtype=torch.long, device=inputs.device)
        start = ones.new_zeros(batch) if before is None else before["valid"]
        steps = ones if mask is None else mask.long()
        count = start + steps.cumsum(0)
        # seen counts padding too, but is known without waiting for the device
        if longest is not None and seen + steps.shape[0] > longest and count[-1].max() > longest:
            raise UserError(
                f"the text is {int(count[-1].max())} tokens long, this SpikeDecoder has positions for {longest} "
                "(max_position_embeddings): give or generate fewer tokens"
            )
        return (count - 1).clamp(min=0), {"valid": count[-1]}


class SpikeDecoderModel(SpikeDecoderPreTrainedModel):
    """SpikeDecoder without a head: the spikes that it reads; with repeat coding, their rates."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012  # as above

    def __init__(self, config: SpikeDecoderConfig) -> None:
        super().__init__(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **more: Any,
    ) -> BaseModelOutputWithPast:
        """`last_hidden_state` `[B, L, D]`; the inputs are those of `SpikeDecoderForCausalLM`."""
        return self.encode(input_ids, inputs_embeds, attention_mask, cache, use_cache, output_hidden_states, more)[0]


class SpikeDecoderForCausalLM(SpikeDecoderPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """SpikeDecoder with a head for the next token."""

    accepts_loss_kwargs = True

    def __init__(self, config: SpikeDecoderConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(self.width, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the token after each token.

        input_ids: `[B, L]`. inputs_embeds: `[B, L, D]`, in the place of the rows that input_ids
        choose. attention_mask: `[B, L]`, or `[B, before + L]` with the tokens of the
        cache; 0 is padding, on any side. cache: state of the tokens before, continued in place;
        use_cache: begin one. labels: `[B, L]`, token i is predicted at i - 1; or shift_labels:
        `[B, L]`, what is predicted at i itself, which prevails. -100 is not scored, nor is padding.
        num_items_in_batch: divides the summed loss, for exact gradient accumulation.
        logits_to_keep: only the last so many positions, 0 for all. output_hidden_states: also the
        embedding's and each block's output, `[B, L, D]` (with repeat coding, the means over T).
        Other arguments of transformers' models, such as position_ids, may be None.
        """
        shift_labels = more.pop("shift_labels", None)  # the Trainer would require a named one
        more.pop("tokenizer", None)  # `generate(stop_strings=...)` hands it on
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        if shift_labels is not None and logits_to_keep:
            raise ValueError("logits_to_keep drops logits that the labels need; give only one of the two")
        encoded, mask = self.encode(
            input_ids, inputs_embeds, attention_mask, cache, use_cache, output_hidden_states, more
        )
        logits = self.lm_head(encoded.last_hidden_state[:, -logits_to_keep:])
        loss = None if shift_labels is None else self._loss(logits, shift_labels, mask, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=encoded.cache, hidden_states=encoded.hidden_states
        )

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def _loss(self, logits: Tensor, targets: Tensor, mask: Tensor | None, items: Tensor | int | None) -> Tensor:
        if mask is not None:
            targets = targets.masked_fill(~mask.T, -100)
        loss: Tensor = self.loss_function(
            logits, None, vocab_size=self.config.vocab_size, num_items_in_batch=items, shift_labels=targets.contiguous()
        )
        return loss


register(SpikeDecoderConfig, (AutoModel, SpikeDecoderModel), (AutoModelForCausalLM, SpikeDecoderForCausalLM))
