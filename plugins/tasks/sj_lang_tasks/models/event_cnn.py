"""A convolutional network over frames of events, its neurons handed in.

    x = conv2d 3 x 3, batch norm, N     for each number of a stage
    x = sums of 2 x 2 neighbours        at the end of a stage
    y = mean over T of Linear(N(Linear(flat x)))

Neurons run along the frames, everything else works on each frame alone, and frames that are padding
enter nothing: neither statistics of a norm, nor a state, nor the mean. Ours: sums in the place of
means at the end of a stage, so that what enters the next convolution are whole numbers. Stages
[[64, 128], [256, 256], [512, 512], [512, 512]] are the convolutions of VGGSNN (arXiv 2202.11946).
Shapes: `[T, B, C, H, W]` inside, `[B, T, 2, H, W]` outside.
"""

from dataclasses import field
from typing import Any, ClassVar, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from sj_lang.errors import UserError
from sj_lang.hf.models import register
from sj_lang_tasks.models.common import NeuronConfig, NeuronLayer, NeuronModel, NeuronPart

POOL = 2
CHANNELS = 2  # ON, OFF


@strict
class EventCNNConfig(NeuronConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and the neuron of a network over frames of events."""

    model_type = "sj-event-cnn"
    handed_in: ClassVar[frozenset[str]] = frozenset({"height", "width"})
    meaning = ("twin",)

    #: H of the frames; fixed by the data
    height: int = 28
    #: W of the frames; fixed by the data
    width: int = 28
    #: channels of the convolutions of each stage, which ends with a pooling by 2
    stages: list[list[int]] = field(default_factory=lambda: [[16], [16]])
    #: width of the layer before the last
    head_size: int = 64
    #: the neurons
    neuron: NeuronPart = "dsn"
    #: the size-matched ANN, with ReLU in the place of neurons: it sees each frame alone
    twin: bool = False

    def __post_init__(self, **others: Any) -> None:
        self.complete("height", "width", "head_size")
        self.stages = [list(stage) for stage in self.stages]
        if not self.stages or not all(stage and min(stage) > 0 for stage in self.stages):
            raise UserError(f"model.stages is {self.stages}; expected lists of channels, such as [[16], [16]]")
        if min(self.last_size) < 1:
            raise UserError(
                f"model: frames of {self.height} x {self.width} cannot be pooled {len(self.stages)} times by {POOL}; "
                "give model.stages fewer lists"
            )
        super().__post_init__(**others)

    @property
    def last_size(self) -> tuple[int, int]:
        """H and W after the last stage."""
        factor = POOL ** len(self.stages)
        return self.height // factor, self.width // factor


class FrameLayer(nn.Module):
    """s = N(norm(product(x))) at the valid frames. product, norm: of single frames `[V, ...]`."""

    def __init__(self, config: EventCNNConfig, product: nn.Module, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.product, self.norm = product, norm
        self.neurons = NeuronLayer(config.make_neuron(), channels)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames: the valid ones `[V, ...]`, in the order of mask `[T, B]`; so is what returns."""
        currents = self.norm(self.product(frames))
        if bool(mask.all()):
            return self.neurons(currents.unflatten(0, mask.shape)).flatten(0, 1)  # type: ignore[no-any-return]
        return self.neurons(padded(currents, mask), mask)[mask]  # type: ignore[no-any-return]


class EventCNNForImageClassification(NeuronModel):
    """Classify recordings `[B, T, 2, H, W]`."""

    config_class = EventCNNConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: EventCNNConfig) -> None:
        super().__init__(config)
        stages, before = [], CHANNELS
        for widths in config.stages:
            layers = nn.ModuleList()
            for channels in widths:
                conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
                layers.append(FrameLayer(config, conv, nn.BatchNorm2d(channels), channels))
                before = channels
            stages.append(layers)
        self.stages = nn.ModuleList(stages)
        height, width = config.last_size
        hidden = nn.Linear(before * height * width, config.head_size)
        self.hidden = FrameLayer(config, hidden, nn.Identity(), config.head_size)
        self.classifier = nn.Linear(config.head_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple[Tensor, ...]:
        """Logits `[B, classes]`. attention_mask `[B, T]`: 1 at frames; None: all are."""
        frames = pixel_values.transpose(0, 1)
        if attention_mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        else:
            mask = attention_mask.T.bool()
        x = frames[mask]
        for stage in self.stages:
            for layer in cast(nn.ModuleList, stage):
                x = layer(x, mask)
            x = sum_pool(x)
        scores = self.classifier(self.hidden(x.flatten(1), mask))
        logits = padded(scores, mask).sum(0) / mask.sum(0).clamp(min=1)[:, None]
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


def padded(valid: Tensor, mask: Tensor) -> Tensor:
    """`[V, ...]` to `[T, B, ...]`: what is valid at its places in mask `[T, B]`, 0 elsewhere."""
    if bool(mask.all()):
        return valid.reshape(*mask.shape, *valid.shape[1:])
    places = mask.view(*mask.shape, *[1] * (valid.dim() - 1))
    return valid.new_zeros(*mask.shape, *valid.shape[1:]).masked_scatter(places, valid)


def sum_pool(x: Tensor) -> Tensor:
    """Sums of 2 x 2 neighbours; a last row or column without a neighbour is left out."""
    return nn.functional.avg_pool2d(x, POOL, divisor_override=1)


register(EventCNNConfig, (AutoModelForImageClassification, EventCNNForImageClassification))
