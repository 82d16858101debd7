"""Make a model known to transformers' Auto classes."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sj_lang.errors import PluginError


def register(config_class: Any, *auto_and_model: tuple[Any, Any]) -> None:
    """Register a config class and, per Auto class, the model it stands for: `(AutoModelForCausalLM, Model)`.

    transformers replaces an earlier registration of the same `model_type` without a word, and checkpoints of the
    other plugin would then be built as this model. Raises PluginError instead, naming both classes.
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
        if auto is AutoModelForCausalLM:  # by these names the Trainer knows whose labels label smoothing must shift
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] = model.__name__
