from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang.run import measurements

measurements._COSTED = 2  # the energy of 32 samples would take a third of a tiny run's time

TINY = {
    "vocab_size": 23,
    "max_position_embeddings": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "initializer_range": 0.3,
}
KINDS: dict[str, dict[str, Any]] = {
    "integer": {"neuron": {"type": "dsn", "alpha_init": 0.5}},
    "binary": {"neuron": {"type": "dsn", "n": 1, "k": 2, "alpha_init": 0.5}, "attention": {"type": "ssa", "chunk": 4}},
    "repeat": {"coding": "repeat", "timesteps": 3, "attention": {"type": "ssa", "scale": 0.5}},
    "twin": {"twin": True},
    "softmax": {"attention": "softmax", "neuron": {"type": "dsn", "n": 1, "k": 2, "alpha_init": 0.5}},
    "calm": {  # everything that is ours: Heaviside, gain, no positions
        "neuron": {"type": "dsn", "n": 1, "surrogate_function": "ATan", "v_threshold": 0.3, "alpha_init": 0.3},
        "attention": {"type": "ssa", "scale": 1.0, "chunk": 3},
        "embedding": {"type": "learned_sum", "position": "none", "std": 0.5},
        "norm": {"type": "layer", "eps": 0.01},
        "branch_gain": 0.5,
    },
    "recalling": {  # what makes attention work with binary spikes
        "neuron": {"type": "dsn", "n": 1, "k": 2, "alpha_init": 0.5},
        "attention": {"type": "ssa", "chunk": 4},
        **{"input_norm": True, "attended_norm": True, "delayed_keys": True},
    },
    "forgetting": {
        "neuron": {"type": "dsn", "n": 1, "k": 2, "alpha_init": 0.5},
        "attention": {"type": "ssa", "chunk": 4, "decay": "input"},
        "attended_norm": True,
    },
    "recalling_repeat": {"coding": "repeat", "timesteps": 2, "attention": "softmax", "delayed_keys": True},
}


@pytest.fixture(autouse=True)
def _figures(undrawn: None) -> None:
    """Are drawn only where they are looked at."""


@pytest.fixture
def build() -> Callable[..., SpikeDecoderForCausalLM]:
    """Build a tiny model of one of KINDS, in evaluation mode."""

    def make(kind: str = "integer", **changes: Any) -> SpikeDecoderForCausalLM:
        torch.manual_seed(0)
        return SpikeDecoderForCausalLM(SpikeDecoderConfig(**{**TINY, **KINDS[kind], **changes})).eval()

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 23, (3, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A machine whose network does not reach the hub. Call it for the seconds since then."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    return lambda: time.monotonic() - start
