"""A Spikformer that predicts series (after arXiv 2209.15425, 2402.01533), its neurons handed in.

    x = N(norm(Linear(series)) + position)
    x = x + N(norm(Linear(N(Q (K^T V) * scale)))),   Q, K, V = N(norm(Linear(x)))      per block
    x = x + N(norm(Linear(N(norm(Linear(x))))))
    y = last value + Linear(x at the last step) + mean over time of Linear(x)

The axis of the series is the time axis (ours: each step is computed once, not T times), so neurons
run along it, and attention without softmax sees all of it. Streams are sums of spikes, whole
numbers. Ours too: what is predicted is the difference to the last value. Shapes: `[L, B, D]`
inside, `[B, L, C]` outside.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoModelForTimeSeriesPrediction, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from sj_lang.errors import UserError
from sj_lang.hf.models import register
from sj_lang_tasks.models.common import NeuronConfig, NeuronLayer, NeuronModel, NeuronPart


@strict
class SeriesSpikformerConfig(NeuronConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and the neuron of a Spikformer over series."""

    model_type = "sj-series-spikformer"
    handed_in: ClassVar[frozenset[str]] = frozenset({"num_series", "length", "horizon"})
    meaning = ("num_attention_heads", "twin")

    #: C, fixed by the data
    num_series: int = 7
    #: L, steps seen; fixed by the task
    length: int = 168
    #: steps predicted; fixed by the task
    horizon: int = 24
    #: D, channels of the stream
    hidden_size: int = 64
    #: the number of blocks
    num_hidden_layers: int = 1
    #: the number of attention heads, which must divide D
    num_attention_heads: int = 4
    #: width of the MLP over D
    mlp_ratio: int = 2
    #: factor of the attention's products, in front of their neurons
    attention_scale: float | int = 0.125
    #: the neurons
    neuron: NeuronPart = "dsn"
    #: the size-matched ANN: ReLU in the place of neurons, attention as it is
    twin: bool = False

    def __post_init__(self, **others: Any) -> None:
        self.complete("num_series", "length", "horizon", "hidden_size", "num_hidden_layers", "mlp_ratio")
        heads, width = self.num_attention_heads, self.hidden_size
        if heads < 1 or width % heads:
            raise UserError(f"model.num_attention_heads is {heads}, it must divide hidden_size {width}")
        super().__post_init__(**others)


class NormedLinear(nn.Module):
    """N(norm(Linear(x)) + offset), `[L, B, D]`; the norm is a batch norm over texts and steps."""

    def __init__(self, config: SeriesSpikformerConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.neurons = NeuronLayer(config.make_neuron(), outputs)

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        currents = self.norm(self.linear(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.neurons(currents if offset is None else currents + offset)  # type: ignore[no-any-return]


class SpikformerBlock(nn.Module):
    """x = x + attention(x); x = x + MLP(x)."""

    def __init__(self, config: SeriesSpikformerConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads, self.scale = config.num_attention_heads, config.attention_scale
        self.qkv = NormedLinear(config, dim, 3 * dim)
        self.mixed = NeuronLayer(config.make_neuron(), dim)
        self.out = NormedLinear(config, dim, dim)
        self.up = NormedLinear(config, dim, config.mlp_ratio * dim)
        self.down = NormedLinear(config, config.mlp_ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, -1))
        q, k, v = (part.permute(1, 2, 0, 3) for part in heads)  # [B, H, L, K]
        products = q @ (k.transpose(-1, -2) @ v) * self.scale
        x = x + self.out(self.mixed(products.permute(2, 0, 1, 3).flatten(2)))
        return x + self.down(self.up(x))  # type: ignore[no-any-return]


class SeriesSpikformerForPrediction(NeuronModel):
    """Predict the next `horizon` steps of C series from L steps `[B, L, C]`."""

    config_class = SeriesSpikformerConfig
    base_model_prefix = ""
    main_input_name = "past_values"

    def __init__(self, config: SeriesSpikformerConfig) -> None:
        super().__init__(config)
        dim, outputs = config.hidden_size, config.horizon * config.num_series
        self.embedding = NormedLinear(config, config.num_series, dim)
        self.position = nn.Parameter(torch.empty(config.length, 1, dim))
        self.layers = nn.ModuleList(SpikformerBlock(config) for _ in range(config.num_hidden_layers))
        self.from_last = nn.Linear(dim, outputs)
        self.from_all = nn.Linear(dim, outputs, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.position, std=0.02)

    def forward(
        self, past_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Predictions `[B, horizon, C]` as `logits`. labels: the true ones; the loss is their mean
        squared error."""
        length = self.config.length
        if past_values.shape[1] != length:
            raise ValueError(f"this model sees {length} steps, the input has {past_values.shape[1]}")
        last = past_values[:, -1:]
        x = self.embedding((past_values - last).transpose(0, 1), self.position)
        for layer in self.layers:
            x = layer(x)
        change = self.from_last(x[-1]) + self.from_all(x).mean(0)
        predicted = last + change.unflatten(-1, (self.config.horizon, -1))
        loss = None if labels is None else nn.functional.mse_loss(predicted.float(), labels.float())
        output = SequenceClassifierOutput(loss=loss, logits=predicted)
        return output.to_tuple() if return_dict is False else output


register(SeriesSpikformerConfig, (AutoModelForTimeSeriesPrediction, SeriesSpikformerForPrediction))
