"""How much a model fires, as a part of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sj_lang.errors import UserError
from sj_lang_language.data.text.windows import IGNORED
from sj_lang_language.layers import SpikingLayer


class FiringRates:
    """The firing rate of each sample in the model's last pass, with its gradient.

    A rate is the mean of |S| / largest spike over the valid steps and the channels of a layer, then
    over the layers; with a target, the mean of the layers' distances to it. The model is watched
    as long as it lives. UserError if it has no neurons.
    """

    def __init__(self, model: PreTrainedModel, target: float | None = None) -> None:
        self._target = target
        layers = [module for module in model.modules() if isinstance(module, SpikingLayer) and module.spiking]
        if not layers:
            raise UserError(f"task.firing: {type(model).__name__} has no spiking neurons; set task.firing=0")
        self._rates: dict[SpikingLayer, Tensor | None] = dict.fromkeys(layers)
        for layer in layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: Any, args: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        spikes, mask = output[0], args[2]
        others = [axis for axis in range(spikes.dim()) if axis != 1]  # axis 1 is the batch
        steps = spikes.shape[:-1].numel() / spikes.shape[1] if mask is None else mask.sum(others[:-1]).clamp(min=1)
        sizes = spikes.abs().sum(others, dtype=torch.float32)  # masked steps hold zeros
        self._rates[layer] = sizes / (steps * spikes.shape[-1] * layer.node.levels)

    def __call__(self) -> Tensor:
        """`[B]`, of the pass that has just been made."""
        rates = [rate for rate in self._rates.values() if rate is not None]
        self._rates = dict.fromkeys(self._rates)
        if len(rates) != len(self._rates):
            raise UserError(
                "task.firing: not all layers of neurons were seen with a gradient, as with reentrant checkpoints; set "
                "train.gradient_checkpointing_kwargs={use_reentrant: false}, or task.firing=0"
            )
        stacked = torch.stack(rates)  # [layers, B]
        return (stacked if self._target is None else (stacked - self._target).abs()).mean(0)


class FiringPrice(nn.Module):
    """A model's own loss plus what it fires: an `Objective`.

        loss = own + weight * rate

    rate is that of `FiringRates`, averaged over the samples by their number of labels, so it is
    exact under gradient accumulation. labels: the key of a batch that holds them.
    """

    asks: Mapping[str, Any] = {}  # never written

    def __init__(self, model: PreTrainedModel, *, weight: float, target: float | None, labels: str) -> None:
        super().__init__()
        self.weight, self.labels, self._rates = weight, labels, FiringRates(model, target)

    def forward(self, outputs: Any, batch: Mapping[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """The loss, as `sj_lang.task.Objective` defines it."""
        scored = scored_of_each(batch[self.labels])
        count = scored.sum() if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = outputs["loss"] + self.weight * (self._rates() * scored).sum() / count
        return loss


def check_price(firing: float, target: float | None) -> None:
    """Raise UserError unless these are a weight of the firing rate and a rate to reach."""
    if not 0 <= firing < math.inf:
        raise UserError(f"task.firing: {firing}; give the weight of the firing rate in the loss, 0 or more")
    if target is not None and not 0 < target < 1:
        raise UserError(f"task.firing_target: {target}; give a firing rate between 0 and 1, both excluded")
    if target is not None and not firing:
        raise UserError("task.firing_target: it has no weight in the loss; set task.firing, such as to 1")


def scored_of_each(labels: Tensor) -> Tensor:
    """Labels of each sample, `[B]`."""
    return (labels != IGNORED).reshape(len(labels), -1).sum(1)
