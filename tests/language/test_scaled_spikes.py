"""Spikes that stand for values: what Linear layers and attention make of them, folding,
and running in sub-steps.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.attention.softmax import SoftmaxAttention
from sj_lang_language.attention.ssa import SpikingSelfAttention
from sj_lang_language.layers import SpikingLayer, SpikingLinear
from sj_lang_language.models.snn_bert import SNNBertForSequenceClassification
from tiny_bert import build, texts
from torch import Tensor

from sj_lang import build as parts
from sj_lang.energy import energy, unrolled
from sj_lang.monitor import Monitor, intercepted, nodes

INTEGER: dict[str, Any] = {"type": "bpsn", "variant": "G", "spikes": "integer", "levels": 4, "offset": True}


def neuron() -> Any:
    return parts.part("neuron", INTEGER)


@torch.no_grad()
def scaled(**changes: Any) -> Any:
    """A tiny SNN-BERT of integer spikes whose scales, shifts and offsets are all different."""
    options = {"neuron": INTEGER, "attention": {"type": "softmax", "scale": 1.0, "gain": 1.0}, "scaled": True}
    model = build("bpsn", **{**options, **changes})
    for layer in model.modules():
        if isinstance(layer, SpikingLayer) and layer.scale is not None and layer.shift is not None:
            layer.scale.uniform_(0.2, 0.6)
            layer.shift.uniform_(-0.2, 0.2)
            layer.node.offset.uniform_(-0.3, 0.3)
    return model


def inputs() -> dict[str, Tensor]:
    ids, segments = texts()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask}


# Linear layers


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_linear_layer_has_the_values_in_its_weights(bias: bool) -> None:
    torch.manual_seed(0)
    layer = SpikingLayer(neuron=neuron(), channels=6, scaled=True)
    linear, spikes = SpikingLinear(layer, 4, bias=bias), torch.randint(-4, 5, (5, 3, 6)).float()
    assert layer.scale is not None
    assert layer.shift is not None
    assert layer.scale.eq(1).all()
    assert not layer.shift.any()
    if not bias:
        with pytest.raises(ValueError, match="spikes with a shift need a Linear layer with a bias"):
            linear(spikes)
        return
    assert torch.equal(linear(spikes), torch.nn.functional.linear(spikes, linear.weight, linear.bias))
    layer.scale.uniform_(0.5, 2)
    layer.shift.normal_()
    weight, shift = linear.folded()
    torch.testing.assert_close(weight, linear.weight @ torch.diag(layer.scale))
    assert shift is not None
    torch.testing.assert_close(shift, linear.bias + linear.weight @ layer.shift)
    values = layer.scale * spikes + layer.shift
    torch.testing.assert_close(linear(spikes), values @ linear.weight.T + linear.bias, rtol=1e-5, atol=1e-5)


def test_scales_and_shifts_learn() -> None:
    model = scaled().train()
    model(**inputs(), labels=torch.tensor([0, 1, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith((".scale", ".shift")):
            assert parameter.grad is not None, name
            parts_of_qkv = parameter.grad.view(3, -1) if ".qkv." in name else parameter.grad[None]
            learns = [bool(part.any()) for part in parts_of_qkv]
            # the key's shift adds the same to all scores of a query
            assert learns == ([True, False, True] if name.endswith("qkv.shift") else [True] * len(learns)), name


def test_a_twin_has_no_scales_and_plain_spikes_none_either() -> None:
    for model in (build("twin", scaled=True), build("bpsn")):
        assert not [name for name, _ in model.named_parameters() if name.endswith((".scale", ".shift"))]


# Attention


def attention(*, causal: bool = False, scale: float = 1.0, gain: float = 1.0) -> SoftmaxAttention:
    torch.manual_seed(0)
    core = SpikingLayer(neuron=neuron(), channels=8)
    options: dict[str, Any] = {"bias": True, "causal": causal, "core": core, "scaled": True}
    made = SoftmaxAttention(scale=scale, gain=gain, dim=8, heads=2, neuron=neuron(), **options)
    assert made.qkv.scale is not None
    assert made.qkv.shift is not None
    with torch.no_grad():
        made.qkv.scale.uniform_(0.2, 1.5)
        made.qkv.shift.normal_()
    return made.eval()


def of_values(made: SoftmaxAttention, qkv: Tensor, valid: Tensor) -> Tensor:
    """Softmax attention of a s + b, written out; qkv `[L, B, 3D]`."""
    assert made.qkv.scale is not None
    assert made.qkv.shift is not None
    values = (made.qkv.scale * qkv + made.qkv.shift).unflatten(-1, (3, 2, 4))
    q, k, v = values.permute(2, 1, 3, 0, 4)
    scores = made.scale * (q @ k.mT) / math.sqrt(4)
    allowed = valid[:, None, None]
    if made.causal:
        allowed = allowed & torch.ones(qkv.shape[0], qkv.shape[0], dtype=torch.bool).tril()
    o = made.gain * scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    return o.permute(2, 0, 1, 3).flatten(-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("scale", "gain"), [(1.0, 1.0), (2.0, 0.5)])
@torch.no_grad()
def test_attention_of_scaled_spikes_is_that_of_their_values(causal: bool, scale: float, gain: float) -> None:
    made = attention(causal=causal, scale=scale, gain=gain)
    spikes, mask = torch.randint(-4, 5, (7, 3, 8)).float(), torch.ones(7, 3, dtype=torch.bool)
    mask[5:, 1] = False
    with Monitor(made).recording(keep=True) as seen:
        o, _ = made(spikes, None, mask)
    (qkv,) = seen.rasters["qkv.node"]
    assert qkv.unique().numel() > 4
    expected = of_values(made, qkv, mask.T)
    torch.testing.assert_close(o[mask], expected[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_keys_shift_falls_out() -> None:
    made = attention()
    spikes = torch.randint(-4, 5, (7, 3, 8)).float()
    before, _ = made(spikes)
    assert made.qkv.shift is not None
    made.qkv.shift[8:16] += 3
    after, _ = made(spikes)
    assert torch.equal(after, before)
    made.qkv.shift[:8] += 3
    assert not torch.allclose(made(spikes)[0], before)


def test_ssa_refuses_scaled_spikes() -> None:
    with pytest.raises(ValueError, match=r"ssa multiplies spikes as they are; set model\.scaled=false, or take"):
        SpikingSelfAttention(dim=8, heads=2, neuron=neuron(), bias=True, causal=False, scaled=True)
    with pytest.raises(ValueError, match="ssa multiplies spikes as they are"):
        scaled(attention="ssa")
    scaled(attention="ssa", scaled=False)


# Folding


def rasters(model: Any) -> dict[str, Tensor]:
    with Monitor(model).recording(keep=True) as seen:
        model(**inputs())
    return {name: torch.cat(calls) for name, calls in seen.rasters.items()}


@torch.no_grad()
def ties(model: Any) -> dict[str, Tensor]:
    """Where a potential lies so near the middle of two levels that rounding decides."""
    near: dict[str, Tensor] = {}

    def watch(name: str, node: Any, original: Any) -> Any:
        def sequence(*arguments: Any) -> Any:
            spikes, state, h = original(*arguments)
            levels = h / torch.nn.functional.softplus(node.threshold) - node.offset
            near[name] = (levels - levels.floor() - 0.5).abs() < 1e-4
            return spikes, state, h

        return sequence

    for node in nodes(model).values():
        node.store_v_seq = True
    with intercepted(nodes(model), watch, "sequence"):
        model(**inputs())
    for node in nodes(model).values():
        node.store_v_seq = False
    return near


@pytest.mark.parametrize("residual", ["float", "spikes"])
@torch.no_grad()
def test_folding_leaves_outputs_and_spikes_as_they_are(residual: str) -> None:
    model = scaled(residual=residual)
    folded = copy.deepcopy(model)
    for one in (model, folded):  # a copied Linear layer must read its own copy of the neurons
        for name, module in one.named_modules():
            if isinstance(module, SpikingLinear):
                assert any(module.neurons is layer for layer in one.modules()), name
    folded.fold()
    for name, layer in folded.named_modules():
        if isinstance(layer, SpikingLayer) and not name.endswith("qkv"):
            assert layer.scale is not None
            assert layer.scale.eq(1).all(), name
            assert not layer.shift.any(), name
    qkv = "bert.encoder.layer.0.attention.self.qkv.scale"
    assert torch.equal(folded.get_parameter(qkv), model.get_parameter(qkv))
    undecided = ties(model)
    before, after = rasters(model), rasters(folded)
    assert before.keys() == after.keys() == undecided.keys()
    for name, spikes in before.items():
        assert undecided[name].float().mean() < 0.01, name
        assert spikes.unique().numel() > 3, name
        assert torch.equal(spikes[~undecided[name]], after[name][~undecided[name]]), name
    torch.testing.assert_close(folded(**inputs()).logits, model(**inputs()).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_folded_model_is_stored_and_folding_again_changes_nothing(tmp_path: Path) -> None:
    model = scaled()
    model.fold()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(**inputs()).logits
    model.save_pretrained(tmp_path)
    again = SNNBertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs()).logits, logits)
    for one in (model, again):
        one.fold()
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, tensors[name]), name


@torch.no_grad()
def test_a_loaded_model_folds_like_the_one_that_was_stored(tmp_path: Path) -> None:
    model = scaled()
    model.save_pretrained(tmp_path)
    loaded = SNNBertForSequenceClassification.from_pretrained(tmp_path).eval()
    logits = loaded(**inputs()).logits
    for one in (model, loaded):
        one.fold()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    torch.testing.assert_close(loaded(**inputs()).logits, logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_there_is_nothing_to_fold_in_a_twin_or_in_plain_spikes() -> None:
    for model in (build("twin"), build("bpsn")):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.fold()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_what_shifts_add_to_a_bias_costs_no_energy() -> None:
    model, sample = scaled(), {"input_ids": texts()[0][:1]}
    width = model.config.hidden_size
    # pooler, head
    assert energy(model, [sample])["energy.macs"] == width * width + width * model.config.num_labels
    costs = energy(model, [sample])
    model.fold()
    assert energy(model, [sample]) == pytest.approx(costs)


# Sub-steps


@torch.no_grad()
def test_every_product_of_spikes_runs_in_substeps_and_changes_nothing() -> None:
    model = scaled()
    model.fold()
    plain = model(**inputs()).logits
    with unrolled(model) as mode:
        in_substeps = model(**inputs()).logits
    # per layer: Q, K, V, the three dense ones; Q' K^T with the spikes of K, weights times the
    # spikes of V
    assert mode.products == model.config.num_hidden_layers * 8
    assert mode.most == 4
    assert mode.products < mode.substeps <= 4 * mode.products
    torch.testing.assert_close(in_substeps, plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_before_folding_products_hold_the_spikes_too() -> None:
    """The values are in the weights in training already; a float is left if spikes meet spikes."""
    model = scaled()
    with unrolled(model) as mode:
        model(**inputs())
    assert mode.products == model.config.num_hidden_layers * 8
