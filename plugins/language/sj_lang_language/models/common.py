"""What the spiking models share: rules of their configs, fresh weights."""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sj_lang import build
from sj_lang.component.schema import Part, with_preset
from sj_lang.errors import PluginError, UserError, choices
from sj_lang_language.layers import SpikingLayer

if TYPE_CHECKING:  # a type checker reads a name in quotes as a class
    Neuron = str | Mapping[str, Any]
    Embedding = str | Mapping[str, Any]
    Attention = str | Mapping[str, Any]
    Norm = str | Mapping[str, Any]
else:
    Neuron, Embedding, Attention, Norm = (Part[kind] for kind in ("neuron", "embedding", "attention", "norm"))

# what transformers itself stores in, or adds to, a config
_OF_TRANSFORMERS = frozenset(
    {
        "name_or_path",
        "_name_or_path",
        "model_type",
        "torch_dtype",
        "num_labels",
        "use_cache",
        "_commit_hash",
        "auto_map",
    }
    | {"output_attentions", "attn_implementation", "_attn_implementation", "experts_implementation"}
)
# tau 2, threshold 1, hard reset, detached are SpikeDecoder's. The input is not halved (ours): with
# decay_input the potential of a constant input 1, which is what its embedding gives, comes near the
# threshold and never reaches it.
REPEATED: Mapping[str, Any] = {
    "type": "lif",
    "tau": 2.0,
    "decay_input": False,
    "detach_reset": True,
    "surrogate_function": "ATan",
}
#: arguments of other transformers models that have no meaning here, and why
_WITHOUT_MEANING = {
    "position_ids": "positions count the tokens that attention_mask leaves",
    "output_attentions": "attention keeps no weights that could be returned",
    "head_mask": "heads cannot be switched off",
    "past_key_values": "there are no keys and values; neurons carry a state of their own",
    "encoder_hidden_states": "there is no cross-attention",
    "encoder_attention_mask": "there is no cross-attention",
}


class SpikingConfig:
    """Mixed into a PreTrainedConfig: the meaning of `coding`, `timesteps`, `twin`, and checks."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    model_type: str
    coding: str
    timesteps: int
    twin: bool
    hidden_size: int
    num_attention_heads: int
    #: why no token may depend on a later one; "" if it may
    causal: ClassVar[str] = ""
    #: what neurons that run along the tokens must be able to do, and why
    along_tokens: ClassVar[dict[str, str]] = {"any_length": "texts have any length"}
    #: options of components, by their names, that this model sets if config and recipe do not
    presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}

    @property
    def repeats(self) -> int | None:
        """T of repeat coding; None if each token is computed once: individual coding, ANN twins."""
        return self.timesteps if self.coding == "repeat" and not self.twin else None

    @property
    def runs_along_tokens(self) -> bool:
        """Whether neurons run along the tokens; any neuron can run along the T steps of one."""
        return self.coding != "repeat" and not self.twin

    def requires(self, pads: bool) -> dict[str, dict[str, str]]:
        """The traits that the components must have, and why. pads: batches may hold padding."""
        needs = {kind: {"causal": self.causal} for kind in ("embedding", "attention") if self.causal}
        if self.runs_along_tokens:
            needs["neuron"] = self.along_tokens | ({"takes_mask": "batches hold padding"} if pads else {})
        return needs

    def complete(self, name: str, others: Mapping[str, Any], sizes: Iterable[str]) -> None:
        """Check the config, and write out all options of its components, as defaults may change.

        name: of the model; others: what are not fields; sizes: the fields that must be 1 or more.
        """
        self._refuse_unknown(name, others)
        for kind in ("neuron", "embedding", "attention", "norm"):
            setattr(self, kind, with_preset(kind, getattr(self, kind), self.presets.get(kind, {})))
            setattr(self, kind, component(self, kind).spec)
        for key in (*sizes, "hidden_size", "num_attention_heads", "timesteps"):
            if getattr(self, key) < 1:
                raise UserError(f"{name}: {key} is {getattr(self, key)}, expected 1 or more")
        heads, width = self.num_attention_heads, self.hidden_size
        if width % heads:
            raise UserError(f"{name}: num_attention_heads {heads} must divide hidden_size {width}")

    def _refuse_unknown(self, name: str, others: Mapping[str, Any]) -> None:
        """UserError for keys that are no fields; transformers would keep them as attributes."""
        kind = others.get("model_type", self.model_type)
        if kind != self.model_type:
            raise UserError(
                f"{name}: this is the config of a '{kind}'; to start from its weights, give from_pretrained a "
                f"config={type(self).__name__}(...) of the same sizes"
            )
        valid = sorted(field for field in self.__dataclass_fields__ if not field.startswith("_"))
        for key in sorted(set(others) - _OF_TRANSFORMERS):
            raise UserError(f"{name} has no option '{key}'; {choices(key, valid, limit=30)}")


def inputs_of(
    model: nn.Module, input_ids: Tensor | None, inputs_embeds: Tensor | None, more: Mapping[str, Any]
) -> Tensor:
    """The one of the first two that is not None; both have shape `[B, L, ...]`.

    ValueError if both or none are. TypeError if `more`, the further arguments of a forward pass,
    holds anything but what is None or False.
    """
    for name, value in more.items():
        if value is not None and value is not False:
            reason = f"; {_WITHOUT_MEANING[name]}" if name in _WITHOUT_MEANING else ""
            raise TypeError(f"{type(model).__name__} has no {name}{reason}")
    inputs = [x for x in (input_ids, inputs_embeds) if x is not None]
    if len(inputs) != 1:
        raise ValueError(f"{type(model).__name__}: give either input_ids or inputs_embeds")
    return inputs[0]


def component(config: Any, kind: str) -> build.Make:
    """The neuron, the norm ... of a config, ready to be built."""
    return build.part(kind, getattr(config, kind))


def asked_if(twin: bool) -> dict[str, Any]:
    """A component is asked for its twin only if one is built, so it need not have one."""
    return {"twin": True} if twin else {}


class SpikingModel:
    """Mixed into a PreTrainedModel: its table of tokens, and fresh weights.

    transformers calls `_init_weights` for each module that has tensors without a value; what is
    left out would hold raw memory.
    """

    config: Any
    #: has the table of tokens as `token`, which may be a property
    embedding: Any

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.embedding.token
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        old = self.embedding.token
        for module in self.embedding.modules():
            for name, child in [*module.named_children()]:
                if child is old:  # an assignment would not call a property's setter
                    setattr(module, name, value)

    def embed(self, ids: Tensor | None, vectors: Tensor | None, *others: Tensor | None) -> Tensor:
        """The embedding of ids `[L, B]`, or of vectors `[L, B, D]` in the place of their rows.

        others: positions, segments and mask, `[L, B]` or None.
        """
        if vectors is None:
            embedded: Tensor = self.embedding(ids, *others)
            return embedded
        if "vectors" not in inspect.signature(self.embedding.forward).parameters:
            raise UserError(
                f"inputs_embeds: the embedding {type(self.embedding).__name__} takes token ids only; its forward() has "
                "no argument `vectors`"
            )
        embedded = self.embedding(None, *others, vectors=vectors)
        return embedded

    def initial_std(self, module: nn.Module) -> float:
        """Deviation of the normal distribution from which this Linear or Embedding is drawn."""
        std = getattr(module, "std", None)
        return float(self.config.initializer_range if std is None else std)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the tensors of one module, except those that a checkpoint has filled."""
        modules = self.modules()  # type: ignore[attr-defined]
        layers = (layer for layer in modules if isinstance(layer, SpikingLayer))
        layer = next((layer for layer in layers if module in layer.node.modules()), None)
        has_tensors = bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])
        reset = getattr(module, "reset_parameters", None)
        if layer is not None:
            layer.initialise(module)
        elif isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.initial_std(module))
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif has_tensors and reset is not None:
            reset()
        elif has_tensors:
            raise PluginError(
                f"{type(module).__module__}.{type(module).__qualname__} has parameters or buffers of its own and no "
                "reset_parameters(): loaded from a checkpoint without them it would hold raw memory"
            )
