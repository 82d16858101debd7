"""Where a spiking student starts: nearest grids, refitted Linear layers, and refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from sj_lang_language.layers import SpikingLayer, SpikingLinear
from sj_lang_language.models.calibration import calibrate, fit_grid, fit_spikes, refit
from sj_lang_language.models.snn_bert import SNNBertForSequenceClassification
from tiny_bert import build, texts
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from sj_lang import build as parts
from sj_lang.energy import unrolled
from sj_lang.errors import UserError
from sj_lang.monitor import Monitor

INTEGER: dict[str, Any] = {"type": "bpsn", "variant": "G", "spikes": "integer", "levels": 4, "offset": True}
SCALED: dict[str, Any] = {
    "neuron": INTEGER, "scaled": True, "attention": {"type": "softmax", "scale": 1.0, "gain": 1.0}
}  # fmt: skip


def error_of(x: Tensor, step: Tensor, offset: Tensor, low: int, high: int) -> Tensor:
    levels = ((x - offset) / step).round().clamp(low, high)
    return (x - offset - step * levels).square().mean(0)


def channels() -> dict[str, Tensor]:
    """Inputs as neurons of a BERT have them, 1000 tokens of each."""
    generator = torch.Generator().manual_seed(0)
    normal, uniform = torch.randn(6, 1000, generator=generator), torch.rand(3, 1000, generator=generator)
    return {
        "normal": normal[0] + 2,
        "GELU": functional.gelu(normal[1]),
        "GELU, mostly silent": functional.gelu(2 * normal[2] - 2),
        "skewed": normal[3].exp(),
        "skewed to the left": -normal[3].exp(),
        "uniform": 5 * uniform[0] + 2,
        "two hills": 0.3 * normal[4] + (uniform[1] > 0.3) * 6,
        "sparse": normal[5] * (uniform[2] > 0.9),
    }


@pytest.mark.parametrize("centred", [True, False], ids=["offset", "no offset"])
@pytest.mark.parametrize(("low", "high"), [(-4, 4), (-1, 1), (0, 1), (0, 4)])
def test_a_grid_is_no_worse_than_one_that_is_searched_for(low: int, high: int, centred: bool) -> None:
    x = torch.stack(list(channels().values()), 1)
    deviation, mean = x.std(0), x.mean(0)
    searched = torch.full_like(mean, torch.inf)
    # of the grid, from its middle to its edge, in deviations
    for width in torch.linspace(0.1, 4, 79):
        step = width * deviation * 2 / (high - low)
        for place in torch.linspace(-3, 3, 61) if centred else [None]:
            offset = torch.zeros_like(step) if place is None else mean + place * deviation - step * (high + low) / 2
            searched = torch.minimum(searched, error_of(x, step, offset, low, high))
    step, offset = fit_grid(x, low, high, centred=centred)
    assert (step > 0).all()
    assert centred or not offset.any()
    for name, fitted, best in zip(channels(), error_of(x, step, offset, low, high), searched, strict=True):
        assert fitted <= 1.02 * best, name


def test_a_grid_of_a_channel_that_does_not_vary() -> None:
    step, offset = fit_grid(torch.full((50, 2), 1.5), -4, 4)
    assert (step > 0).all()
    assert error_of(torch.full((50, 2), 1.5), step, offset, -4, 4).max() < 1e-9


@pytest.mark.parametrize("centred", [True, False], ids=["offset", "no offset"])
def test_a_price_on_spikes_makes_grids_that_fire_less_for_the_least_cost(centred: bool) -> None:
    x = torch.stack(list(channels().values()), 1)
    prices = [None, *(factor * x.var(0) for factor in (1e-3, 0.03, 0.3, 30.0))]
    grids = [fit_grid(x, -4, 4, centred=centred, price=price) for price in prices]
    sizes = [((x - b) / a).round().clamp(-4, 4).abs().mean(0) for a, b in grids]
    errors = [error_of(x, a, b, -4, 4) for a, b in grids]
    for one, other in itertools.pairwise(sizes):
        assert (other <= one + 1e-6).all()
    for price, error, size in zip(prices[1:], errors[1:], sizes[1:], strict=True):
        assert price is not None
        for other_error, other_size in zip(errors, sizes, strict=True):
            assert (error + price * size <= 1.001 * (other_error + price * other_size)).all()
    assert (sizes[-1] < 0.02).all(), "a price of many deviations silences every channel"


@torch.no_grad()
def test_with_a_price_a_student_fires_less_and_its_linear_layers_make_up_for_it() -> None:
    rates, errors = [], []
    for price in (0.0, 0.05):
        student, twin = pair()
        errors.append(student.calibrate(twin, batch(), spike_price=price)["layer.1"])
        monitor = Monitor(student)
        with monitor.recording():
            student(**batch(61))
        rates.append(monitor.figures()["firing_rate.mean"])
    assert rates[1] < 0.8 * rates[0]
    assert errors[0] < errors[1] < 0.5


@torch.no_grad()
def test_a_channel_that_nothing_reads_is_silent() -> None:
    torch.manual_seed(0)
    neurons = SpikingLayer(neuron=parts.part("neuron", INTEGER), channels=5, scaled=True)
    linear = SpikingLinear(neurons, 3)
    linear.weight[:, 2] = 0
    x = torch.randn(200, 1, 5)
    fit_spikes(neurons, x[:, 0], readers=[linear], spike_price=0.01)
    fired = neurons(x)[0].abs().mean((0, 1))
    assert fired[2] == 0
    assert (fired[[0, 1, 3, 4]] > 0).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.1, 10.0])
def test_a_refitted_layer_is_the_closed_form(ridge: float, bias: bool) -> None:
    """Against a least squares problem with a row for each input and each weight's pull,
    solved as a whole.
    """
    torch.manual_seed(0)
    neurons = SpikingLayer(neuron=parts.part("neuron", INTEGER), channels=5, scaled=True)
    assert neurons.scale is not None
    assert neurons.shift is not None
    with torch.no_grad():
        neurons.scale.uniform_(0.5, 2)
        neurons.shift.normal_()
    linear = SpikingLinear(neurons, 3, bias=bias)
    before = linear.weight.detach().clone()
    spikes, target = torch.randint(-4, 5, (40, 5)).float(), torch.randn(40, 3)
    with torch.no_grad():
        refit(linear, spikes, target, ridge)

    values = (neurons.scale * spikes + neurons.shift).detach().double()
    middle, centre = values.mean(0), target.double().mean(0)
    pull = ridge * (values - middle).square().mean(0).mean() * 40
    rows = torch.cat([values - middle, pull.sqrt() * torch.eye(5)])
    wanted = torch.cat([target.double() - centre, pull.sqrt() * before.T.double()])
    weight = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(linear.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)
    if bias:
        torch.testing.assert_close(linear.bias.detach().double(), centre - weight @ middle, rtol=1e-5, atol=1e-5)


def pair(**changes: Any) -> tuple[Any, Any]:
    """A student with its twin's weights, and the twin."""
    twin = build("twin", gelu=True)
    student = build("bpsn", **{**SCALED, **changes})
    places = student.state_dict()
    for name, tensor in twin.state_dict().items():
        places[name].copy_(tensor)
    return student, twin


def batch(sentences: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(4, 12, (sentences, 1), generator=generator)
    return {
        "input_ids": torch.randint(0, 23, (sentences, 11), generator=generator),
        "attention_mask": (torch.arange(11) < lengths).long(),
    }


def relative_errors(student: Any, twin: Any, inputs: dict[str, Tensor]) -> list[float]:
    ours, theirs = (model(**inputs, output_hidden_states=True).hidden_states[1:] for model in (student, twin))
    valid = inputs["attention_mask"].bool()
    return [
        float((one[valid] - other[valid]).square().mean() / other[valid].var(0, correction=0).mean())
        for one, other in zip(ours, theirs, strict=True)
    ]


@torch.no_grad()
def test_layers_come_nearer_to_the_twins_and_the_errors_are_theirs() -> None:
    student, twin = pair()
    inputs = batch()
    before = relative_errors(student, twin, inputs)
    logits = twin(**inputs).logits
    errors = student.calibrate(twin, {**inputs, "labels": torch.zeros(40, dtype=torch.long)})
    assert list(errors) == ["layer.0", "layer.1"]
    after = relative_errors(student, twin, inputs)
    assert list(errors.values()) == pytest.approx(after, rel=1e-4)
    for fitted, raw in zip(after, before, strict=True):
        assert fitted < raw / 10
    for unseen, raw in zip(relative_errors(student, twin, batch(61)), before, strict=True):
        assert unseen < raw / 7
    assert torch.equal(twin(**inputs).logits, logits), "the teacher stays as it is"


@pytest.mark.parametrize(
    "attention", [SCALED["attention"], {"type": "firing_scores", "levels": 4}], ids=lambda a: a["type"]
)
@torch.no_grad()
def test_spikes_without_a_sign_keep_as_much_and_are_binary_in_substeps(attention: dict[str, Any]) -> None:
    """0 to 8 is the grid of -4 to 4 with its offset in the bias; its sub-steps are 0 or 1."""
    (signed, twin), (unsigned, _) = (
        (part.double() for part in pair(attention=attention, neuron={**INTEGER, **changes}))
        for changes in ({}, {"levels": 8, "signed": False})
    )
    errors = signed.calibrate(twin, batch())
    assert unsigned.calibrate(twin, batch()) == pytest.approx(errors, rel=0.05)
    unsigned.fold()
    inputs = batch(61)
    with unrolled(unsigned) as check:
        in_substeps = unsigned(**inputs).logits
    assert (check.least, check.most) == (0, 8)
    torch.testing.assert_close(in_substeps, unsigned(**inputs).logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_padding_has_no_part_in_it() -> None:
    inputs = batch()
    longer = {name: functional.pad(value, (0, 3)) for name, value in inputs.items()}
    longer["input_ids"][:, 11:] = 7
    (one, twin), (other, _) = ((part.double() for part in pair()) for _ in range(2))
    errors = calibrate(one, twin, inputs)
    assert calibrate(other, twin, longer) == pytest.approx(errors, rel=1e-3)
    for (name, tensor), padded in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(padded, tensor, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_training_goes_on_as_before() -> None:
    student, twin = pair()
    student.train()
    student.calibrate(twin, batch())
    assert student.training
    assert not twin.training
    assert not [hook for module in student.modules() for hook in module._forward_hooks]
    assert not [hook for module in student.modules() for hook in module._forward_pre_hooks]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaled": False}, r"a layer of BPSN has no grid to fit; .* set model\.scaled=true"),
        ({"neuron": {"type": "dsn"}}, r"a layer of DSN has no grid to fit; take neurons with whole-number spikes"),
        ({"neuron": {"type": "bpsn", "variant": "G"}}, ".*binary.* without an offset have no grid; take offset=True"),
        ({"neuron": {**INTEGER, "variant": "R"}}, ".*the lateral term of variant R is never 0.*; take variant G"),
        ({"attention": "ssa", "scaled": False}, r"a layer of BPSN has no grid"),
        ({"coding": "repeat", "neuron": INTEGER}, r"with repeat coding .*; set model\.coding=individual"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_students_that_cannot_be_calibrated(changes: dict[str, Any], message: str) -> None:
    student, twin = pair(**changes)
    with pytest.raises(UserError, match=f"^calibration: {message}"):
        calibrate(student, twin, batch())
    assert not [hook for module in student.modules() for hook in module._forward_pre_hooks]


def test_a_batch_without_tokens() -> None:
    student, twin = pair()
    empty = {name: value[:0] for name, value in batch().items()}
    masked = {**batch(), "attention_mask": torch.zeros(40, 11, dtype=torch.long)}
    for nothing in (empty, {"input_ids": empty["input_ids"]}, masked):
        with pytest.raises(UserError, match="calibration: the batch holds no tokens; give at least one sentence"):
            calibrate(student, twin, nothing)


def test_a_teacher_that_is_no_twin() -> None:
    student, _ = pair()
    sizes = {name: getattr(student.config, name) for name in ("hidden_size", "intermediate_size", "vocab_size")}
    bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))
    wide = build("twin", intermediate_size=32)
    name = r"encoder\.layer\.0\.attention\.self\.query \[16, 16\]"
    with pytest.raises(UserError, match=f"is not the student's ANN twin: BertFor.* does not have it: {name}"):
        calibrate(student, bert, batch())
    with pytest.raises(UserError, match=r"SNNBertFor.* has it in shape \[32, 16\]: encoder\.layer\.0\.intermediate"):
        calibrate(student, wide, batch())


def test_without_a_mask_all_tokens_count() -> None:
    student, twin = pair()
    ids, segments = texts()
    errors = calibrate(student, twin, {"input_ids": ids, "token_type_ids": segments})
    assert set(errors) == {"layer.0", "layer.1"}
    assert isinstance(student, SNNBertForSequenceClassification)
