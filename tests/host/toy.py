"""Small components for the tests of the host: a stranger's plugin, on plain classes."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from transformers import PreTrainedConfig

from sj_lang.component.schema import Data, Part

Norm = Part["norm"]


class Lif:
    def __init__(
        self,
        *,
        channels: int,
        step_mode: Literal["s", "m"] = "m",
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: str | type | None = "ATan",
    ) -> None:
        self.channels, self.step_mode, self.tau = channels, step_mode, tau


class Delay:
    def __init__(self, *, channels: int, delays: int = 2, direction: Literal["forward", "both"] = "forward") -> None:
        self.channels, self.delays, self.direction = channels, delays, direction


class Mixing:
    """An attention that holds a norm of its own choice, and is handed its neuron."""

    def __init__(self, *, dim: int, heads: int, neuron: Any, norm: Norm = "centre", dropout: float = 0.0) -> None:
        self.dim, self.heads, self.neuron, self.norm, self.dropout = dim, heads, neuron, norm, dropout

    handed_in: ClassVar[frozenset[str]] = frozenset({"dim", "heads", "neuron"})


class Centre:
    def __init__(self, *, dim: int, eps: float = 1e-5) -> None:
        self.dim, self.eps = dim, eps


class ToyConfig(PreTrainedConfig):
    model_type = "sj-toy"
    vocab_size: int = 64
    hidden_size: int = 32
    heads: int = 4
    neuron: Part["neuron"] = "toy_lif"
    attention: Part["attention"] = "mixing"
    norm: Part["norm"] | None = None
    coding: Literal["individual", "repeat"] = "individual"
    dropout: float = 0.1
    twin: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be divided by heads {self.heads}")
        super().__post_init__(**kwargs)

    def requires(self, pads: bool) -> Mapping[str, Mapping[str, str]]:
        return {"neuron": {"causal": "the model is causal"}}


class ToyTask:
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    causal: ClassVar[bool] = True
    pads: ClassVar[bool] = False

    def __init__(self, *, data: Data, length: int = 64, split: list[float] | None = None) -> None:
        self.data, self.length, self.split = data, length, split


class Letters:
    def __init__(self, *, texts: Any, lowercase: bool = False) -> None:
        self.lowercase = lowercase


class Poem:
    def texts(self) -> dict[str, str]:
        return {"all": "so much depends upon"}
