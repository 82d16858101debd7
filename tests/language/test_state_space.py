"""SpikeDecoder without attention: its kits, its state, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang import build
from sj_lang.errors import UserError
from sj_lang.recipe import load
from sj_lang.testing.components import check_attention
from sj_lang.testing.models import check_model

SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "initializer_range": 0.5}


def model(**options: Any) -> SpikeDecoderForCausalLM:
    torch.manual_seed(0)
    config = SpikeDecoderConfig(**SIZES, attention="state_space", **options)
    return SpikeDecoderForCausalLM(config)


def test_the_component_passes_its_kit() -> None:
    make = build.part("attention", "state_space")
    parts = {"dim": 8, "heads": 1, "neuron": build.part("neuron", "dsn"), "norm": build.part("norm", "layer")}
    assert check_attention(lambda: make(**parts, causal=True), dim=8, causal=True)


@pytest.mark.parametrize(
    "neuron", [{"type": "dsn", "n": 1, "alpha_init": 0.5}, {"type": "sliding_psn", "k": 3}], ids=str
)
def test_the_model_passes_its_kit(neuron: dict[str, Any]) -> None:
    assert check_model(lambda: model(neuron=neuron), vocab_size=11, causal=True)


def test_the_state_is_that_of_the_neurons() -> None:
    decoder = model(neuron={"type": "dsn", "alpha_init": 0.7}).eval()
    _, state = decoder.layers[0].attention(torch.randn(6, 1, 8))
    assert set(state) == {"neurons.h", "neurons.tail"}
    ids = torch.arange(6)[None]
    last = decoder(ids).logits[0, -1]
    others = [torch.cat((ids[:, :t], 9 - ids[:, t : t + 1], ids[:, t + 1 :]), 1) for t in range(5)]
    # earlier tokens are remembered
    assert any(not torch.equal(decoder(other).logits[0, -1], last) for other in others)


def test_a_twin_and_a_text_as_a_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="has no ANN twin: without neurons no token would know another one"):
        model(twin=True)
    make = build.part("attention", "state_space")
    with pytest.raises(ValueError, match="is for causal models"):
        make(dim=8, heads=1, neuron=build.part("neuron", "dsn"), causal=False)


def test_a_neuron_that_does_not_carry_state_is_refused() -> None:
    with pytest.raises(UserError, match="psn cannot be used here"):
        model(neuron={"type": "psn", "T": 6})


def sub_steps(of: Any) -> dict[str, Any]:
    return {"type": "sub_steps", "m": 2, "of": of}


@pytest.mark.parametrize(
    "of", ["lif", {"type": "sliding_psn", "k": 3}, "dsn", {"type": "bpsn", "direction": "forward"}], ids=str
)
def test_sub_steps_of_a_causal_neuron_train(of: Any) -> None:
    decoder, ids = model(neuron=sub_steps(of)), torch.arange(10).view(2, 5)
    decoder(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in decoder.parameters() if p.requires_grad)
    with torch.no_grad():
        assert decoder.eval().generate(ids[:1], max_new_tokens=3, do_sample=False).shape == (1, 8)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"type": "psn", "T": 6}, "sub_steps of psn cannot be used here: it is not causal, and "),
        ("bpsn", r"sub_steps of bpsn \(direction=both\) cannot be used here: it is not causal, and "),
    ],
)
def test_sub_steps_of_a_neuron_that_cannot_are_refused(of: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*Neurons that can: .*dsn.*, sub_steps of one of these"):
        model(neuron=sub_steps(of))


def test_what_the_model_sets_of_a_neuron_holds_in_sub_steps_too() -> None:
    assert model(neuron="lif").config.neuron["decay_input"] is False
    assert model(neuron=sub_steps("lif")).config.neuron["of"]["decay_input"] is False
    assert model(neuron=sub_steps({"type": "lif", "decay_input": True})).config.neuron["of"]["decay_input"] is True
    changes = ["runs=null", "seeds=null", "model.neuron={type: sub_steps, m: 4, of: lif}"]
    assert load("lm/state-space", changes).model["neuron"]["of"]["decay_input"] is False
