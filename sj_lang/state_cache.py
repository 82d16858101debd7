"""The transformers cache of models whose layers carry a state: neurons, attention sums, positions.

transformers' own caches hold keys and values, or the two states of a Mamba layer. This one holds,
per layer, a dict of tensors with the batch on axis 0, which is all that beams, batches and
continued generation need to move. It is the only file that touches hooks of transformers'
generation which are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sj_lang.hf import shield

shield()

from transformers.cache_utils import Cache, CacheLayerMixin  # noqa: E402


class StateLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """The state of one layer: a dict of tensors, batch on axis 0; empty before the first token."""

    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Tensor] = {}
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the first state that is written makes the layer."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise TypeError("a StateCache holds states, not keys and values: use read() and write()")

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state, self.seen, self.is_initialized = {}, 0, False

    def offload(self) -> None:
        self.state = {name: tensor.to("cpu", non_blocking=True) for name, tensor in self.state.items()}

    def prefetch(self) -> None:
        """States come back to the device with the computation that reads them."""

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("the state of spiking neurons cannot be rolled back: assisted decoding needs another model")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.state = {name: tensor[indices.to(tensor.device)] for name, tensor in self.state.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.state = {name: tensor.repeat_interleave(repeats, dim=0) for name, tensor in self.state.items()}


class StateCache(Cache):  # type: ignore[misc]
    """One state per layer, of constant size or growing as the layer likes.

    layers: how many. `read(i)` gives layer i's state, None before the first token;
    `write(i, state, tokens)` replaces it after `tokens` further tokens. States are replaced, never
    changed in place, so a state that was read stays good.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[StateLayer() for _ in range(layers)])

    def read(self, layer: int) -> dict[str, Tensor] | None:
        return dict(self.layers[layer].state) if self.layers[layer].seen else None

    def write(self, layer: int, state: Mapping[str, Tensor], tokens: int) -> None:
        held = self.layers[layer]
        held.state, held.seen, held.is_initialized = dict(state), held.seen + tokens, True

    @property
    def batch_size(self) -> int:
        """Rows of the batch, -1 before the first token."""
        sizes = {len(tensor) for layer in self.layers for tensor in layer.state.values()}
        return sizes.pop() if len(sizes) == 1 else -1

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for layer in self.layers for tensor in layer.state.values())


class StatefulGeneration:
    """Before `GenerationMixin` in a transformers model: `generate()` carries a `StateCache`.

    The model gives `new_cache()`, takes and returns the cache as `cache`. Assisted decoding is
    refused by transformers, as states cannot be rolled back.
    """

    _is_stateful = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def new_cache(self) -> StateCache:
        raise TypeError(f"{type(self).__name__} has no new_cache()")

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r}: "
                f"{type(self).__name__} carries a state of its own; leave it out"
            )
        if generation_config.use_cache and model_kwargs.get("cache") is None:
            model_kwargs["cache"] = self.new_cache()
