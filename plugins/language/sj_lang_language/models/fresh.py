"""Fresh values for every tensor of a model, and for those alone that a checkpoint has not filled."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from sj_lang.errors import PluginError
from sj_lang_language.layers import Firing


class FreshWeights:
    """Mixed into a PreTrainedModel: draws Linear and Embedding, asks nodes and other modules for their own start.

    transformers calls this for each module that has tensors without a value; what is left out would hold raw memory.
    """

    config: Any

    def initial_std(self, module: nn.Module) -> float:
        """Deviation of the normal distribution from which this Linear or Embedding is drawn."""
        std = getattr(module, "std", None)
        return float(self.config.initializer_range if std is None else std)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the tensors of one module, sparing what a checkpoint has filled; called for modules that have some."""
        modules = self.modules()  # type: ignore[attr-defined]
        firing = next((f for f in modules if isinstance(f, Firing) and module in f.node.modules()), None)
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if firing is not None:
            firing.initialise(module)
        elif isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.initial_std(module))
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif own and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif own:
            raise PluginError(
                f"{type(module).__module__}.{type(module).__qualname__} has parameters or buffers of its own and no "
                "reset_parameters(): loaded from a checkpoint without them it would hold raw memory"
            )
