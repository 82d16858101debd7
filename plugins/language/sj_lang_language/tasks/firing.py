"""How much a student fires, as a part of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sj_lang.errors import UserError
from sj_lang_language.layers import SpikingLayer


class FiringRates:
    """The firing rate of each sample in the student's last pass, with its gradient.

    A rate is the mean of |S| / largest spike over the valid steps and the channels of a layer, then
    over the layers; with a target, the mean of the layers' distances to it. The student is watched
    as long as it lives. UserError if it has no neurons.
    """

    def __init__(self, student: PreTrainedModel, target: float | None = None) -> None:
        self._target = target
        layers = [module for module in student.modules() if isinstance(module, SpikingLayer) and module.spiking]
        if not layers:
            raise UserError(f"task.firing: {type(student).__name__} has no spiking neurons; set task.firing=0")
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
