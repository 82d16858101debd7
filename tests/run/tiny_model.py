"""A small spiking language model and its neuron."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.component.schema import Part
from sj_lang.hf import shield

shield()

from huggingface_hub.dataclasses import strict  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402


class Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad / (1 + (math.pi * v) ** 2)


class TinyNeuron(nn.Module):
    """v = v / 2 + x, spike at 1, reset by subtraction."""

    levels = 1
    step_mode = "m"

    def __init__(self, *, channels: int, threshold: float = 1.0, both: bool = False) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((channels,), threshold))

    def init_state(self, x: Tensor) -> dict[str, Tensor]:
        return {"v": torch.zeros_like(x[0])}

    def decays(self) -> dict[str, Tensor]:
        return {"v": torch.full((1,), 0.5)}

    def functional(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        v = (state or self.init_state(x))["v"]
        spikes = []
        for t in range(x.shape[0]):
            keep = torch.ones_like(x[t]) if mask is None else mask[t].to(x)[:, None].expand_as(x[t])
            w = v / 2 + x[t]
            s = Heaviside.apply(w - self.threshold)
            v = torch.where(keep > 0, w - s * self.threshold, v)
            spikes.append(s * keep)
        return torch.stack(spikes), {"v": v}


@strict
class TinyConfig(PreTrainedConfig):
    model_type = "sj-tiny-test"
    vocab_size: int = 10
    dim: int = 16
    num_hidden_layers: int = 2
    dropout: float = 0.1
    max_position_embeddings: int = 64
    pad_token_id: int | None = None
    neuron: Part["neuron"] = "tiny"  # type: ignore[assignment]  # noqa: UP037
    twin: bool = False
    initializer_range: float = 0.5
    explode_at: int = 0
    deaf: bool = False

    def requires(self, *, pads: bool) -> dict[str, dict[str, str]]:
        needs = {"causal": "the model is causal"}
        if pads:
            needs["takes_mask"] = "the task pads its batches"
        return {} if self.twin else {"neuron": needs}


class TinyBlock(nn.Module):
    def __init__(self, config: TinyConfig, node: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.dim)
        self.neuron = node
        self.down = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x_up = self.up(x)
        fired = self.neuron.functional(x_up, None, mask)[0] if hasattr(self.neuron, "functional") else self.neuron(x_up)
        return x + self.dropout(self.down(fired))


class TinyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TinyConfig
    _calls = 0

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        from sj_lang.build import part

        make = part("neuron", config.neuron)
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        nodes = [nn.GELU() if config.twin else make(channels=config.dim) for _ in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(TinyBlock(config, node) for node in nodes)
        self.head = nn.Linear(config.dim, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TinyNeuron):
            nn.init.ones_(module.threshold)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        x = self.embed(input_ids).transpose(0, 1)
        mask = None if attention_mask is None else attention_mask.T.bool()
        if self.training:
            self._calls += 1
            if self.config.explode_at and self._calls >= self.config.explode_at:
                x = x / torch.zeros(())
        for block in self.layers:
            x = block(x, mask)
        logits = self.head(x.transpose(0, 1))
        loss = None
        if labels is not None:
            options = {} if self.config.deaf else kwargs
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **options)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        return {"input_ids": input_ids, "attention_mask": attention_mask}


AutoConfig.register("sj-tiny-test", TinyConfig)
AutoModelForCausalLM.register(TinyConfig, TinyForCausalLM)
