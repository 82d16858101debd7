"""Configs and checkpoints: everything written down, nothing unknown taken,
nothing left as raw memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from sj_lang_language.layers import SpikingLayer
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from sj_lang import build as parts
from sj_lang.errors import PluginError, UserError
from sj_lang.hf import models as hf_models

Build = Callable[..., SpikeDecoderForCausalLM]


@pytest.fixture
def saved(build: Build, kind: str, tmp_path: Path) -> tuple[SpikeDecoderForCausalLM, Path]:
    model = build(kind)
    with torch.no_grad():  # away from every initial value
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def test_a_checkpoint_rebuilds_itself(saved: tuple[SpikeDecoderForCausalLM, Path], ids: torch.Tensor) -> None:
    model, folder = saved
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert type(again) is SpikeDecoderForCausalLM
    before, after = model.config.to_dict(), again.config.to_dict()
    assert {**after, "_name_or_path": ""} == before
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


def test_the_config_holds_every_option_of_the_components(build: Build, tmp_path: Path) -> None:
    build("binary").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["neuron"]["n"] == 1
    assert written["neuron"]["tau"] == 0.25
    assert written["attention"]["scale"] == 0.125
    assert written["norm"]["eps"] == 1e-5
    assert written["embedding"]["surrogate_function"] == "ATan"


def test_missing_parameters_are_initialised_like_fresh_ones(
    saved: tuple[SpikeDecoderForCausalLM, Path], kind: str, build: Build
) -> None:
    _, folder = saved
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if ".node." not in name and "norm" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    torch.manual_seed(3)
    # memory that is handed out again is not zero
    waste = [torch.full((10_000,), float("nan")) for _ in range(50)]
    del waste
    again, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    fresh = build(kind)
    for name, value in again.named_parameters():
        if name in kept:
            assert torch.equal(value, kept[name]), name
        else:
            assert name in report["missing_keys"]
            assert value.isfinite().all(), name
            like = dict(fresh.named_parameters())[name]
            assert value.abs().max() <= like.abs().max() * 3 + 1e-6, name


class Counting(torch.nn.Module):
    """A node with a parameter, a buffer that is stored and one that is not,
    and no reset_parameters().
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.full((channels,), 0.5))
        self.register_buffer("stored", torch.full((channels,), 2.0))
        self.register_buffer("derived", torch.arange(channels).float(), persistent=False)
        self.inner = torch.nn.Linear(channels, channels)
        torch.nn.init.eye_(self.inner.weight)

    def functional(self, x: Any, state: Any = None, mask: Any = None) -> Any:
        return (x * self.gain > 0.5).float(), {}


def test_a_foreign_node_keeps_its_own_initial_values(build: Build) -> None:
    model = build()
    model.output = SpikingLayer(neuron=Counting, channels=16)
    with torch.no_grad():
        for tensor in (*model.output.node.parameters(), *model.output.node.buffers()):
            tensor.fill_(torch.nan)
    # what from_pretrained does with what it has loaded
    model.output.node.gain._is_hf_initialized = True
    model.initialize_weights()
    node = model.output.node
    assert node.gain.isnan().all()
    assert torch.equal(node.stored, torch.full((16,), 2.0))
    assert torch.equal(node.derived, torch.arange(16).float())
    assert torch.equal(node.inner.weight, torch.eye(16))


def test_a_component_that_cannot_be_reset_is_refused(build: Build) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(3))

    model = build()
    model.bare = Bare()
    with pytest.raises(PluginError, match=r"Bare has parameters or buffers of its own and no reset_parameters"):
        model.initialize_weights()


def test_the_initialisation_is_as_the_config_says(build: Build) -> None:
    model = build(hidden_size=64, initializer_range=0.05)
    for weight in (model.lm_head.weight, model.layers[0].mlp.up_proj.weight, model.embedding.token.weight):
        assert weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert torch.equal(model.layers[0].mlp.up_norm.weight, torch.ones(128))
    assert torch.equal(model.layers[0].mlp.down_norm.weight, torch.ones(64))


def test_tables_and_branches_start_as_their_options_say(build: Build) -> None:
    embedding = {"type": "learned_sum", "std": 0.3, "position_std": 0.0}
    model = build(hidden_size=64, branch_gain=0.25, embedding=embedding)
    assert model.embedding.token.weight.std().item() == pytest.approx(0.3, rel=0.1)
    assert not model.embedding.position.weight.any()
    for layer in model.layers:
        assert torch.equal(layer.attention.out_norm.weight, torch.full((64,), 0.25))
        assert torch.equal(layer.mlp.down_norm.weight, torch.full((64,), 0.25))
        assert torch.equal(layer.mlp.up_norm.weight, torch.ones(128))


def test_building_is_reproducible(build: Build, kind: str) -> None:
    for (name, first), second in zip(build(kind).named_parameters(), build(kind).parameters(), strict=True):
        assert torch.equal(first, second), name


def test_unknown_and_wrong_config_keys_are_refused() -> None:
    with pytest.raises(UserError, match=r"no option 'hiden_size'.*hidden_size"):
        SpikeDecoderConfig(hiden_size=8)
    with pytest.raises(UserError, match="num_attention_heads 3 must divide hidden_size 16"):
        SpikeDecoderConfig(hidden_size=16, num_attention_heads=3)
    with pytest.raises(UserError, match="timesteps is 0"):
        SpikeDecoderConfig(timesteps=0)
    with pytest.raises(UserError, match="dns"):
        SpikeDecoderConfig(neuron="dns")
    with pytest.raises(StrictDataclassError, match="hidden_size"):
        SpikeDecoderConfig(hidden_size="16")
    with pytest.raises(StrictDataclassError, match="coding"):
        SpikeDecoderConfig(coding="rate")


def test_a_stored_config_with_an_unknown_key_is_refused(build: Build, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_sise": 8}))
    with pytest.raises(UserError, match="hidden_sise"):
        AutoConfig.from_pretrained(tmp_path)


def test_what_the_components_must_be_able_to_do() -> None:
    needed = SpikeDecoderConfig().requires(pads=False)["neuron"]
    assert set(needed) == {"causal", "carries_state", "any_length"}
    assert "takes_mask" in SpikeDecoderConfig().requires(pads=True)["neuron"]
    assert set(SpikeDecoderConfig(coding="repeat").requires(pads=True)) == {"attention", "embedding"}
    assert parts.part("neuron", SpikeDecoderConfig(coding="repeat").neuron).name == "lif"


def test_another_models_type_is_not_taken_over() -> None:
    class Other(PreTrainedConfig):
        model_type = "sj-spike-decoder"

    with pytest.raises(PluginError, match=r"'sj-spike-decoder' of .*Other is already that of .*SpikeDecoderConfig"):
        hf_models.register(Other)
    hf_models.register(SpikeDecoderConfig, (AutoModelForCausalLM, SpikeDecoderForCausalLM))
