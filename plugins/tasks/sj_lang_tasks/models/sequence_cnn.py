"""The network of PSN's sequential images (arXiv 2304.12760), its neurons handed in.

    x = conv1d, batch norm, N       `layers` times a stage, over the axis H of a step
    x = sums of `pool` neighbours   at the end of each stage
    y = mean over T of Linear(N(Linear(flat x)))

A step is a column `[C, H]` of an image; neurons run along the steps, everything else works on each
step alone. Ours: sums in the place of means at the end of a stage, so that what enters the next
convolution are whole numbers; the batch norm after it absorbs the factor. Shapes: `[T, B, C, H]`
inside, `[B, T, C, H]` outside.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from sj_lang.errors import UserError
from sj_lang.hf.models import register
from sj_lang_tasks.models.common import NeuronConfig, NeuronLayer, NeuronModel, NeuronPart


@strict
class SequenceCNNConfig(NeuronConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and the neuron of a sequence CNN."""

    model_type = "sj-sequence-cnn"
    handed_in: ClassVar[frozenset[str]] = frozenset({"num_channels", "height"})
    meaning = ("pool", "twin")

    #: C of the input; fixed by the data
    num_channels: int = 1
    #: H of the input; fixed by the data
    height: int = 28
    #: C of each convolution
    channels: int = 32
    #: the number of stages, each of which ends with a pooling
    stages: int = 2
    #: the number of convolutions of a stage
    layers: int = 3
    #: width of the convolutions' kernels, an odd number
    kernel_size: int = 3
    #: neighbours along H that are summed at the end of a stage; 1: none
    pool: int = 2
    #: width of the layer before the last; None: a quarter of what enters it
    head_size: int | None = None
    #: the neurons
    neuron: NeuronPart = "dsn"
    #: the size-matched ANN, with ReLU in the place of neurons: it sees each step alone
    twin: bool = False

    def __post_init__(self, **others: Any) -> None:
        sizes = ("num_channels", "height", "channels", "stages", "layers", "kernel_size", "pool")
        self.complete(*sizes, *(["head_size"] if self.head_size is not None else []))
        if self.kernel_size % 2 == 0:
            raise UserError(f"model.kernel_size is {self.kernel_size}, expected an odd number")
        if self.last_height < 1:
            raise UserError(
                f"model: steps of height {self.height} cannot be pooled {self.stages} times by {self.pool}; "
                "lower model.stages or set model.pool to 1"
            )
        super().__post_init__(**others)

    @property
    def last_height(self) -> int:
        """H after the last stage."""
        height = self.height
        for _ in range(self.stages):
            height //= self.pool
        return height


class ConvLayer(nn.Module):
    """s = N(batch norm(conv1d(x))), `[T, B, C, H]`."""

    def __init__(self, config: SequenceCNNConfig, channels: int) -> None:
        super().__init__()
        size = config.kernel_size
        self.conv = nn.Conv1d(channels, config.channels, size, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm1d(config.channels)
        self.neurons = NeuronLayer(config.make_neuron(), config.channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x.flatten(0, 1)))
        return self.neurons(y.unflatten(0, x.shape[:2]))  # type: ignore[no-any-return]


class SumPool(nn.Module):
    """Sums of `size` neighbours along the last axis; a rest that is shorter is left out."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(-1, self.size, self.size).sum(-1)


class SequenceCNNForImageClassification(NeuronModel):
    """Classify sequences of columns `[B, T, C, H]`."""

    config_class = SequenceCNNConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: SequenceCNNConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = config.num_channels
        for _ in range(config.stages):
            for _ in range(config.layers):
                layers.append(ConvLayer(config, channels))
                channels = config.channels
            if config.pool > 1:
                layers.append(SumPool(config.pool))
        self.layers = nn.Sequential(*layers)
        flat = channels * config.last_height
        width = config.head_size or max(1, flat // 4)
        self.hidden = nn.Linear(flat, width)
        self.neurons = NeuronLayer(config.make_neuron(), width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention | tuple[Tensor, ...]:
        """Logits `[B, classes]`.

        labels: numbers `[B]`, or shares of the classes `[B, classes]`, as mixed images have.
        """
        x = self.layers(pixel_values.transpose(0, 1))
        spikes = self.neurons(self.hidden(x.flatten(2)))
        logits = self.classifier(spikes).mean(0)
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


register(SequenceCNNConfig, (AutoModelForImageClassification, SequenceCNNForImageClassification))
