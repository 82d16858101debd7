"""What models of transformers with spiking neurons need: Auto classes, fresh tensors of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sj_lang.errors import PluginError
from sj_lang.hf import shield

shield()

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from transformers import initialization as init  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402


def register(config_class: Any, *auto_and_model: tuple[Any, Any]) -> None:
    """Register a config class and pairs of Auto class and model: `(AutoModelForCausalLM, Model)`.

    transformers replaces an earlier registration of the same `model_type` without a word, and
    checkpoints of the other plugin would then be built as this model. Raises PluginError instead,
    naming both classes.
    """
    kind = config_class.model_type
    # its get() does not see what was registered
    taken = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else config_class  # noqa: SIM401
    if (taken.__module__, taken.__qualname__) != (config_class.__module__, config_class.__qualname__):
        raise PluginError(
            f"model type '{kind}' of {config_class.__module__}.{config_class.__qualname__} is already that of "
            f"{taken.__module__}.{taken.__qualname__}: one of the two must change its model_type"
        )
    AutoConfig.register(kind, config_class, exist_ok=True)
    for auto, model in auto_and_model:
        auto.register(config_class, model, exist_ok=True)
        if auto is AutoModelForCausalLM:  # tells the Trainer to shift smoothed labels
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] = model.__name__


def initialise(module: nn.Module, node: nn.Module, fresh: Callable[[], nn.Module]) -> None:
    """Give one module of a node the tensors of a fresh node, but for those of a checkpoint.

    For `_init_weights` of a model. A node needs to do nothing for it, and no parameter or unstored
    buffer is left as raw memory.
    """
    name = next(name for name, inside in node.named_modules() if inside is module)
    source = fresh().get_submodule(name)
    for kind in (nn.Module.parameters, nn.Module.buffers):
        for tensor, value in zip(kind(module, recurse=False), kind(source, recurse=False), strict=True):
            init.copy_(tensor, value)
