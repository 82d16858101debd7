"""What the models share: a layer of neurons, rules of their configs, fresh weights."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sj_lang import build
from sj_lang.component.schema import Part
from sj_lang.errors import UserError
from sj_lang.hf import models

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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask `[T, B]`: True at valid steps; None: all are, which any neuron can do."""
        if not self.spiking:
            return cast(Tensor, self.node(x))
        masks = {} if mask is None else {"mask": mask}
        spikes, _ = cast(Any, self.node).functional(x, **masks)
        return cast(Tensor, spikes)

    def initialise(self, module: nn.Module) -> None:
        """`sj_lang.hf.models.initialise` of a module of the node."""
        models.initialise(module, self.node, self._fresh)


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
