"""The model: token ids to logits, and its configuration."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from sj_lang import build
from sj_lang.component.schema import Part


@strict
class EmberConfig(PreTrainedConfig):
    """Its fields are what a recipe may write under `model:`; data fix the first three.

    width: channels. neuron: name and options of the neuron.
    """

    model_type = "ember"
    vocab_size: int = 100
    max_position_embeddings: int = 128
    pad_token_id: int | None = None
    width: int = 64
    neuron: Part["neuron"] = "lif"

    def __post_init__(self, **others: Any) -> None:
        self.neuron = build.part("neuron", self.neuron).spec  # all options, as defaults may change
        super().__post_init__(**others)

    def requires(self, pads: bool) -> dict[str, Any]:
        """What the neuron must be able to do, and why; a recipe with another one is refused."""
        masked = {"takes_mask": "texts of a batch are padded"} if pads else {}
        return {"neuron": {"any_length": "texts have any length"} | masked}


class Ember(PreTrainedModel):
    """logits = Linear(N(Linear(E))): the neurons N run along the tokens."""

    config_class = EmberConfig

    def __init__(self, config: EmberConfig) -> None:
        super().__init__(config)
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.project = nn.Linear(config.width, config.width)
        self.fire = build.part("neuron", config.neuron)(channels=config.width)
        self.head = nn.Linear(config.width, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.token

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """ids, attention_mask, labels [B, L] to logits [B, L, V]. Labels of -100 do not count."""
        x = self.token(input_ids) if inputs_embeds is None else inputs_embeds
        mask = None if attention_mask is None else attention_mask.T.bool()
        spikes, _ = self.fire.functional(self.project(x).transpose(0, 1), None, mask)  # [L, B, D]
        logits = self.head(spikes.transpose(0, 1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.transpose(1, 2), labels)
        out = MaskedLMOutput(loss=loss, logits=logits)
        return out.to_tuple() if return_dict is False else out


AutoConfig.register("ember", EmberConfig, exist_ok=True)
AutoModelForMaskedLM.register(EmberConfig, Ember, exist_ok=True)
