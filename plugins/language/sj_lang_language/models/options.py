"""What the configs of spiking models have in common: unknown keys are refused, components are written out whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sj_lang import build
from sj_lang.errors import UserError, choices

# what transformers itself stores in, or adds to, a config
_OF_TRANSFORMERS = frozenset(
    {"name_or_path", "_name_or_path", "model_type", "torch_dtype", "num_labels", "use_cache", "_commit_hash"}
    | {"output_attentions", "attn_implementation", "_attn_implementation", "experts_implementation"}
)
# tau 2, threshold 1, hard reset, detached are SpikeDecoder's. The input is not halved (ours): with decay_input the
# potential of a constant input 1, which is what its embedding gives, comes near the threshold and never reaches it.
REPEATED: Mapping[str, Any] = {
    "type": "lif",
    "tau": 2.0,
    "decay_input": False,
    "detach_reset": True,
    "surrogate_function": "ATan",
}


class Coding:
    """What `coding`, `timesteps` and `twin` mean, which a config with these fields inherits."""

    coding: str
    timesteps: int
    twin: bool

    @property
    def repeats(self) -> int | None:
        """T of repeat coding; None where each token is computed once (individual coding, and every ANN twin)."""
        return self.timesteps if self.coding == "repeat" and not self.twin else None

    @property
    def runs_along_tokens(self) -> bool:
        """There are neurons, and they run along the tokens, not along the T steps of one, where anything goes."""
        return self.coding != "repeat" and not self.twin


def refuse_unknown(config: Any, name: str, others: Mapping[str, Any]) -> None:
    """transformers takes any key as an attribute, misspelt ones too, and those of another model's config.

    name: of the model; others: what are not fields.
    """
    kind = others.get("model_type", config.model_type)
    if kind != config.model_type:
        raise UserError(
            f"{name}: this is the config of a '{kind}'; to start from its weights, give from_pretrained a "
            f"config={type(config).__name__}(...) of the same sizes"
        )
    valid = sorted(field for field in config.__dataclass_fields__ if not field.startswith("_"))
    for key in sorted(set(others) - _OF_TRANSFORMERS):
        raise UserError(f"{name} has no option '{key}'; {choices(key, valid, limit=30)}")


def write_out(config: Any, kinds: Iterable[str]) -> None:
    """Components with all their options: a checkpoint stays what it was when a default changes."""
    for kind in kinds:
        setattr(config, kind, build.part(kind, getattr(config, kind)).spec)


def require_positive(config: Any, name: str, keys: Iterable[str]) -> None:
    for key in keys:
        if getattr(config, key) < 1:
            raise UserError(f"{name}: {key} is {getattr(config, key)}, expected 1 or more")


def require_heads(config: Any, name: str) -> None:
    heads, width = config.num_attention_heads, config.hidden_size
    if width % heads:
        raise UserError(f"{name}: num_attention_heads {heads} must divide hidden_size {width}")


def asked_if(twin: bool) -> dict[str, bool]:
    """A component is asked for its twin only where one is built, so that it need not have one."""
    return {"twin": True} if twin else {}
