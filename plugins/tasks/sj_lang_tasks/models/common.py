"""What the models share: a layer of neurons, rules of their configs, fresh weights."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers import initialization as init

from sj_lang import build
from sj_lang.component.schema import Part
from sj_lang.errors import UserError

if TYPE_CHECKING:  # a type checker reads a name in quotes as a class
    NeuronPart = str | Mapping[str, Any]
else:
    NeuronPart = Part["neuron"]


class NeuronLayer(nn.Module):
    """s = N(x) along the time axis of `[T, B, C, ...]`, from rest; in an ANN twin ReLU(x).

    neuron: builds a fresh node, `neuron(channels=C)`; None: the twin.
    """

    def __init__(self, neuron: build.Make | None, channels: int) -> None:
        super().__init__()
        self._fresh = partial(neuron, channels=channels) if neuron is not None else nn.ReLU
        self.node: nn.Module = self._fresh()
        self.spiking = neuron is not None

    def forward(self, x: Tensor) -> Tensor:
        if not self.spiking:
            return cast(Tensor, self.node(x))
        spikes, _ = cast(Any, self.node).functional(x)
        return cast(Tensor, spikes)

    def initialise(self, module: nn.Module) -> None:
        """Give a module of the node the tensors of a fresh node, but for those of a checkpoint."""
        name = next(name for name, inside in self.node.named_modules() if inside is module)
        fresh = self._fresh().get_submodule(name)
        for kind in (nn.Module.parameters, nn.Module.buffers):
            for tensor, value in zip(kind(module, recurse=False), kind(fresh, recurse=False), strict=True):
                init.copy_(tensor, value)


class NeuronConfig:
    """Mixed into a PreTrainedConfig with the fields `neuron` and `twin`."""

    model_type: str
    neuron: Any
    twin: bool

    def complete(self, *sizes: str) -> None:
        """Write out all options of the neuron, as defaults may change, and check the sizes."""
        self.neuron = build.part("neuron", self.neuron).spec
        for key in sizes:
            if getattr(self, key) < 1:
                raise UserError(f"model.{key} is {getattr(self, key)}, expected 1 or more")

    def make_neuron(self) -> build.Make | None:
        """What a `NeuronLayer` is built with."""
        return None if self.twin else build.part("neuron", self.neuron)

    def requires(self, pads: bool) -> dict[str, dict[str, str]]:
        """What the neuron must be able to do, and why. pads: batches may hold padding."""
        return {"neuron": {"takes_mask": "batches hold padding"}} if pads and not self.twin else {}


class NeuronModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """Base of the models: weights as torch draws them, neurons as they are built."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the tensors of one module, except those that a checkpoint has filled."""
        layers = (layer for layer in self.modules() if isinstance(layer, NeuronLayer))
        layer = next((layer for layer in layers if module in layer.node.modules()), None)
        reset = getattr(module, "reset_parameters", None)
        if layer is not None:
            layer.initialise(module)
        elif reset is not None:
            reset()


def register(config_class: Any, auto: Any, model: Any) -> None:
    """Tell transformers' Auto class which model belongs to a config."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    auto.register(config_class, model, exist_ok=True)
