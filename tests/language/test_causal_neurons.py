"""SpikeDecoder with each causal neuron: what is cached equals what is recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang import plugins
from sj_lang.monitor import Monitor

#: what a neuron must be told, and what makes those that are calm fire
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sliding_psn": [{"k": 3}],
    "dsn": [{}, {"n": 1, "alpha_init": 0.5}, {"decay": "linear"}, {"decay": "static"}],
    "bpsn": [{"direction": "forward", "variant": variant} for variant in "AGK"] + [{"direction": "forward"}],
    "lif": [{}, {"v_reset": None}, {"learn_threshold": True, "v_threshold": 0.7}],
    "sub_steps": [{"m": 3, "of": {"type": "lif", "v_threshold": 0.7}}, {"m": 2, "of": "dsn"}],
    **{name: [{"v_threshold": 0.5}] for name in ("plif", "klif", "if")},
    "qif": [{"v_threshold": 0.5, "v_c": 0.4}],
    "eif": [{"v_threshold": 0.5, "theta_rh": 0.4}],
}
NEEDED = ("causal", "carries_state", "any_length")
CAUSAL = [
    one.name
    for one in plugins.all("neuron")
    if not one.missing
    and any(all({**one.traits, **more}.get(t) for t in NEEDED) for more in ({}, *one.variants.values()))
]
CASES = [{"type": name, **options} for name in CAUSAL for options in OPTIONS.get(name, [{}])]


def built(neuron: dict[str, Any]) -> SpikeDecoderForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "max_position_embeddings": 64, "hidden_size": 16, "num_hidden_layers": 2}
    config = SpikeDecoderConfig(
        **sizes,
        num_attention_heads=2,
        mlp_ratio=2,
        initializer_range=0.5,
        neuron=neuron,
        attention={"type": "ssa", "scale": 1.0},
    )
    return SpikeDecoderForCausalLM(config).eval()


def continued(model: SpikeDecoderForCausalLM, ids: torch.Tensor, piece: int) -> torch.Tensor:
    """The logits of a text that is read in pieces."""
    cache = model.new_cache()
    return torch.cat([model(part, cache=cache).logits for part in ids.split(piece, dim=1)], dim=1)


@pytest.mark.parametrize("neuron", CASES, ids=lambda case: "-".join(map(str, case.values())))
@torch.no_grad()
def test_pieces_and_single_tokens_equal_the_whole(neuron: dict[str, Any]) -> None:
    model, ids = built(neuron), torch.randint(0, 11, (3, 48), generator=torch.Generator().manual_seed(1))
    monitor = Monitor(model)
    with monitor.recording():
        whole = model(ids).logits
    assert monitor.figures()["firing_rate.mean"] > 0.01
    for piece in (1, 16):  # a spike at a tie may flip with the order of a sum, and rarely does
        differ = (continued(model, ids, piece) - whole).abs().amax(-1) > 1e-3
        assert differ.float().mean() <= 0.02
    model.double()
    whole = model(ids).logits
    for piece in (1, 16):
        torch.testing.assert_close(continued(model, ids, piece), whole, rtol=1e-9, atol=1e-9)
