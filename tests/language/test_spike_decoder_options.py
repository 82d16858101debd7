"""SpikeDecoder's degrees of spiking, residuals and heads: each combination that makes sense."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from sj_lang_language.layers import SpikingLayer
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang.component.spec import resolve
from sj_lang.errors import UserError
from sj_lang.monitor import Monitor

SIZES = {"vocab_size": 11, "max_position_embeddings": 16, "hidden_size": 8, "num_attention_heads": 2, "mlp_ratio": 2}
SMALL = {**SIZES, "num_hidden_layers": 2, "initializer_range": 0.5}
ALIVE = {"type": "dsn", "n": 1, "k": 1, "alpha_init": 0.3}
Build = Callable[..., SpikeDecoderForCausalLM]


def built(**options: Any) -> SpikeDecoderForCausalLM:
    torch.manual_seed(0)
    return SpikeDecoderForCausalLM(SpikeDecoderConfig(**{**SMALL, "neuron": ALIVE, **options}))


def product_of_options() -> list[dict[str, Any]]:
    """Each choice with each other, where the config allows it."""
    options = {
        "coding": ("individual", "repeat"),
        "degree": (0, 1, 2, 3, 4),
        "residual": (0, 1, 2),
        "first_block_fires": (False, True),
        "join": ("average", "accumulate", "concatenate", "final"),
        "fires_joined": (False, True),
        "fires": (True, False),
    }
    chosen = []
    for values in product(*options.values()):
        combination = dict(zip(options, values, strict=True))
        try:
            SpikeDecoderConfig(**combination)
        except UserError:
            continue
        chosen.append(combination)
    return chosen


def test_each_parameter_of_each_combination_has_a_gradient_and_pieces_equal_the_whole() -> None:
    ids = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(2))
    combinations = product_of_options()
    assert len(combinations) > 80
    for options in combinations:
        model = built(**options)
        model(ids, labels=ids).loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing, (options, missing)
        model.eval()
        with torch.no_grad():
            whole = model(ids).logits
            first = model(ids[:, :4], use_cache=True)
            rest = model(ids[:, 4:], cache=first.cache).logits
        torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, rtol=1e-4, atol=1e-5, msg=str(options))


def test_degrees_turn_parts_into_spikes_one_after_the_other() -> None:
    ids = torch.randint(0, 11, (2, 7))
    layers = []
    for degree in range(5):
        model = built(degree=degree)
        layers.append(sum(isinstance(one, SpikingLayer) and one.spiking for one in model.modules()))
        embedded = model.embedding(ids.T, torch.arange(7)[:, None])
        assert (set(embedded.unique().tolist()) <= {0.0, 1.0}) is (degree > 0)
    assert layers == [0, 0, 2 * 3, 2 * 5, 2 * 5 + 1]
    twin, none = built(twin=True), built(degree=0)
    torch.testing.assert_close(none(ids).logits, twin(ids).logits, rtol=0, atol=0)
    shapes = {name: p.shape for name, p in twin.named_parameters()}
    assert all(
        shapes == {name: p.shape for name, p in built(degree=degree).named_parameters() if ".node." not in name}
        for degree in range(5)
    )


def test_residuals_add_spikes_to_spikes() -> None:
    model = built(residual=2, attention={"type": "ssa", "scale": 1.0}).eval()
    states = model(torch.randint(0, 11, (2, 7)), output_hidden_states=True).hidden_states
    assert all(set(state.unique().tolist()) <= {0.0, 1.0, 2.0} for state in states)
    first = built(first_block_fires=True)
    assert [sorted(layer.stream) for layer in first.layers] == [["after_attention"], []]


@pytest.mark.parametrize("join", ["average", "accumulate", "concatenate", "final"])
def test_heads_join_the_steps(join: str) -> None:
    model = built(coding="repeat", timesteps=3, join=join).eval()
    steps = torch.randint(0, 2, (3, 2, 5, 8)).float()
    joined = {
        "average": lambda: steps.mean(0),
        "accumulate": lambda: steps.sum(0),
        "concatenate": lambda: torch.cat(list(steps), -1),
        "final": lambda: steps[2],
    }[join]()
    torch.testing.assert_close(model._joined(steps), joined, rtol=0, atol=0)
    assert model.lm_head.in_features == joined.shape[-1] == model.width
    fires = built(coding="repeat", timesteps=3, join=join, fires_joined=True).eval()
    read = fires._read(3 * torch.rand(3, 2, 5, 8), None, None)[0]
    assert set(read.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"degree": 0, "coding": "repeat"}, "degree 0 has no neurons"),
        ({"degree": 2, "residual": 1}, "residual 1 puts neurons around the MLPs, which are floats at degree 2"),
        ({"degree": 1, "first_block_fires": True}, "first_block_fires puts neurons after attention"),
        ({"join": "final"}, "join final joins the steps of repeat coding"),
        ({"fires_joined": True}, "fires_joined is of repeat coding"),
        ({"degree": 3, "coding": "repeat", "fires_joined": True}, "fires_joined needs a head that reads spikes"),
        ({"degree": 1, "fires": False}, "degree 1 has no neurons that could fire or not"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        SpikeDecoderConfig(**options)
    assert SpikeDecoderConfig(**options, twin=True).twin


def test_neurons_that_do_not_fire_hand_on_their_potentials() -> None:
    spiking, model = built().eval(), built(fires=False).eval()
    names = [name for name, _ in model.named_parameters()]
    assert [name.replace(".node.node.", ".node.") for name in names] == [name for name, _ in spiking.named_parameters()]
    x = torch.randn(7, 2, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(7, 2, dtype=torch.bool)
    mask[5:, 1] = False
    layer = model.layers[0].mlp.input
    node = layer.node.node
    h = torch.zeros(2, 8)
    for x_t, mask_t, y in zip(x, mask, layer(x, None, mask)[0], strict=True):
        alpha = (node.weight[:, 0] * x_t + node.bias).sigmoid() ** (1 / node.tau)  # k is 1
        h = torch.where(mask_t[:, None], alpha * h + (1 - alpha) * x_t, h)
        torch.testing.assert_close(y, h * mask_t[:, None], rtol=1e-5, atol=1e-6)
    monitor = Monitor(model)
    with monitor.recording():
        model(torch.randint(0, 11, (2, 7)))
    assert monitor.figures() == {}
    for neuron in ("lif", {"type": "sub_steps", "m": 2, "of": "lif"}):
        with pytest.raises(UserError, match="has no potential without its spikes; take a neuron without reset"):
            built(neuron=neuron, fires=False)


@pytest.mark.parametrize("norm", ["batch", {"type": "power", "warmup": 2}])
@pytest.mark.parametrize("coding", ["individual", "repeat"])
@torch.no_grad()
def test_fold(norm: Any, coding: str, tmp_path: Any) -> None:
    model, ids = built(norm=norm, coding=coding, branch_gain=0.5, delayed_keys=True), torch.randint(0, 11, (4, 9))
    for _ in range(4):
        model.train()(ids)
    before = model.double().eval()(ids).logits
    model.fold()
    model.fold()
    assert not [name for name, _ in model.named_modules() if name.endswith("norm")]
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = SpikeDecoderForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_what_cannot_fold_says_so_and_stays_as_it_is() -> None:
    model = built()
    with pytest.raises(UserError, match=r"LayerNorm depends on what it normalizes.*batch and power can be folded"):
        model.fold()
    assert model.layers[0].mlp.up_norm is not None
    with pytest.raises(UserError, match="input_norm and attended_norm have no Linear before them"):
        built(norm="batch", input_norm=True).fold()
    with pytest.raises(UserError, match="folded leaves no norm"):
        SpikeDecoderConfig(norm="batch", input_norm=True, folded=True)


@pytest.mark.parametrize(
    "changes", [{"attention": {"type": "ssa", "scale": 1.0}}, {"input_norm": True, "attended_norm": True}]
)
def test_lif_by_name_fires_along_tokens_and_learns(changes: dict[str, Any]) -> None:
    model = built(neuron="lif", hidden_size=32, initializer_range=0.05, norm={"type": "layer", "eps": 0.01}, **changes)
    ids = torch.randint(0, 11, (4, 16), generator=torch.Generator().manual_seed(0))
    monitor = Monitor(model)
    with monitor.recording():
        model(ids, labels=ids).loss.backward()
    figures = monitor.figures()
    rates = {name: value for name, value in figures.items() if name.startswith("firing_rate.")}
    assert min(rates.values()) > 0.02
    assert figures["dead.mean"] < 0.5
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_what_is_said_of_lif_prevails() -> None:
    assert SpikeDecoderConfig(**SMALL, neuron="lif").neuron["decay_input"] is False
    assert SpikeDecoderConfig(**SMALL, neuron={"type": "lif", "decay_input": True}).neuron["decay_input"] is True
    assert "decay_input" not in SpikeDecoderConfig(**SMALL, neuron="dsn").neuron
    section = {"type": "spike_decoder", "neuron": {"type": "lif", "tau": 3.0}}
    options, problems = resolve("model", section)
    assert not problems
    assert (options["neuron"]["decay_input"], options["neuron"]["tau"]) == (False, 3.0)


def test_thresholds_of_repeat_coding_learn() -> None:
    neuron = {"type": "lif", "decay_input": False, "learn_threshold": True, "v_threshold": 0.5}
    model = built(coding="repeat", neuron=neuron)
    ids = torch.randint(0, 11, (2, 8), generator=torch.Generator().manual_seed(0))
    model(ids, labels=ids).loss.backward()
    thresholds = [p for name, p in model.named_parameters() if name.endswith("log_threshold")]
    assert len(thresholds) == len([layer for layer in model.modules() if isinstance(layer, SpikingLayer)])
    assert all(threshold.grad for threshold in thresholds)


@pytest.mark.parametrize("coding", ["individual", "repeat"])
@pytest.mark.parametrize("decay", ["constant", "input"])
def test_rates_of_forgetting_learn_and_padding_forgets_nothing(decay: str, coding: str) -> None:
    neuron = ALIVE if coding == "individual" else None
    model = built(attention={"type": "ssa", "decay": decay}, coding=coding, neuron=neuron, attended_norm=True).eval()
    ids = torch.randint(0, 11, (1, 9), generator=torch.Generator().manual_seed(0))
    whole = model(ids, labels=ids)
    whole.loss.backward()
    rates = [layer.attention.log_rate for layer in model.layers]
    assert all(rate.grad is not None and rate.grad.any() for rate in rates)
    assert rates[0].shape == ((2,) if decay == "constant" else (2, 4))
    padded = torch.cat([ids[:, :4], torch.zeros(1, 3, dtype=torch.long), ids[:, 4:]], dim=1)
    mask = torch.tensor([[1] * 4 + [0] * 3 + [1] * 5])
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[mask.bool()], whole.logits[0])


def test_a_twin_has_no_decay_and_a_wrong_one_is_refused() -> None:
    assert built(twin=True, attention={"type": "ssa", "decay": "input"}).layers[0].attention.log_rate is None
    with pytest.raises(UserError, match="decay"):
        SpikeDecoderConfig(**SMALL, attention={"type": "ssa", "decay": "linear"})
    with pytest.raises(ValueError, match="chunk is 0, expected 1 or more"):
        built(attention={"type": "ssa", "chunk": 0})
