from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from tiny import offered, write_recipe
from tiny_model import TinyConfig, TinyForCausalLM, TinyNeuron
from torch import Tensor, nn

from sj_lang import run
from sj_lang.compat import spikingjelly
from sj_lang.energy import energy, ledger, millijoules, spikes
from sj_lang.energy.costs import TABLES
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.recipe.sections import MEASURE
from sj_lang.spikingjelly.nodes import LIF
from sj_lang.spikingjelly.psn import PSN


class Product(nn.Module):
    """A function of tensors as a model."""

    def __init__(self, run: object, *weights: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ModuleList(weights)
        self.run = run

    def forward(self, **inputs: Tensor) -> object:
        return self.run(*self.weights, **inputs)  # type: ignore[operator]


def x_of(x: Tensor) -> dict[str, Tensor]:
    return {"x": x}


BINARY = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 1]])  # 3 spikes


@pytest.mark.parametrize(
    ("x", "macs", "accumulations"),
    [
        (BINARY, 0, 3 * 5),
        (3 * BINARY, 0, 3 * 5),  # the scale goes into the weights
        (BINARY + 2 * BINARY.flip(1), 0, 9 * 5),  # spikes of 1 and 2: an accumulation for each unit
        (torch.zeros(2, 4), 0, 0),
        (BINARY + 0.1234 * BINARY.flip(1), 8 * 5, 0),
    ],
)
def test_a_linear_layer_costs_what_its_input_makes_of_it(x: Tensor, macs: int, accumulations: int) -> None:
    figures = energy(Product(lambda linear, x: linear(x), nn.Linear(4, 5)), [{"x": x}])
    assert (figures["energy.macs"], figures["energy.accumulations"]) == (macs, pytest.approx(accumulations))
    assert figures["energy.mj"] == pytest.approx((4.6 * macs + 0.9 * accumulations) * 1e-9)
    assert millijoules(1e9, 0) == pytest.approx(4.6)


def test_weights_are_never_spikes() -> None:
    linear = nn.Linear(4, 5)
    nn.init.zeros_(linear.weight)
    figures = energy(Product(lambda linear, x: linear(x), linear), [{"x": torch.randn(2, 4)}])
    assert (figures["energy.macs"], figures["energy.accumulations"]) == (40, 0)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_is_two_products(causal: bool) -> None:
    q, v = torch.zeros(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    q[0, 0, 0, :3] = 1
    model = Product(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    figures = energy(model, [{"q": q, "k": torch.randn(1, 2, 6, 4), "v": v}])
    # Q K^T: each spike of Q meets 6 keys
    assert figures["energy.accumulations"] == pytest.approx(3 * 6)
    assert figures["energy.macs"] == 2 * 6 * 6 * 4  # the weights of softmax, and V
    figures = energy(model, [{"q": v, "k": v, "v": q}])
    assert (figures["energy.macs"], figures["energy.accumulations"]) == (2 * 6 * 6 * 4, pytest.approx(3 * 6))


@pytest.mark.parametrize(
    ("operation", "shapes", "macs"),
    [
        (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)], 2 * 3 * 4 * 5),
        (lambda x, y: x @ y, [(3, 4), (4,)], 12),
        (lambda x, y: x @ y, [(4,), (4,)], 4),
        (lambda x, y: torch.baddbmm(x.new_zeros(2, 3, 5), x, y), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (lambda x, y: F.conv1d(x, y, groups=2), [(2, 4, 9), (6, 2, 3)], 2 * 6 * 7 * 2 * 3),
        (lambda x, y: F.conv2d(x, y, padding=1), [(1, 3, 8, 8), (5, 3, 3, 3)], 8 * 8 * 5 * 3 * 9),
    ],
)
def test_however_a_product_is_written(operation: object, shapes: list[tuple[int, ...]], macs: int) -> None:
    x, y = (torch.randn(shape) for shape in shapes)
    assert energy(Product(operation), [{"x": x, "y": y}])["energy.macs"] == macs


def test_two_operands_of_spikes_cost_what_the_fewer_cost() -> None:
    few, many = torch.zeros(2, 4), torch.ones(4, 3)
    few[0, 0] = 1
    model = Product(lambda x, y: x @ y)
    assert energy(model, [{"x": few, "y": many}])["energy.accumulations"] == 3
    assert energy(model, [{"x": many.T, "y": few.T}])["energy.accumulations"] == 3


def test_the_mean_over_samples_and_nothing_without() -> None:
    model = Product(lambda linear, x: linear(x), nn.Linear(4, 5))
    figures = energy(model, [{"x": BINARY}, {"x": torch.zeros(2, 4)}])
    assert figures["energy.accumulations"] == pytest.approx(7.5)
    assert energy(model, []) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_counts_as_spikes(dtype: torch.dtype) -> None:
    levels = torch.randint(0, 5, (200,)).to(dtype)
    assert spikes(levels) == pytest.approx(float(levels.double().mean()))
    assert spikes(-0.37 * levels) == pytest.approx(float(levels.double().mean()))
    assert spikes(torch.randn(200).to(dtype)) is None
    assert spikes(torch.tensor([0, torch.nan], dtype=dtype)) is None
    assert spikes(torch.tensor([1, torch.nan], dtype=dtype)) is None
    assert spikes(torch.tensor([1.0, 300.0], dtype=dtype)) is None
    assert spikes(torch.zeros(3, 0, dtype=dtype)) == 0


def test_whole_numbers_are_spikes() -> None:
    x = torch.tensor([[0, 2, 1]])
    assert spikes(x) == 1
    assert energy(Product(lambda x: x @ x.T), [{"x": x}])["energy.accumulations"] == 3


def test_neurons_that_are_called_past_functional_leave_the_total_open() -> None:
    node = Mixing(channels=4)
    model = Product(lambda node, x: TinyNeuron.functional(node, x)[0], node)
    assert not {"energy.mj", "energy.neurons_mj"} & energy(model, [{"x": torch.randn(3, 1, 4)}]).keys()


@pytest.mark.parametrize("call", [lambda node, x: node(x), lambda node, x: node.functional(x)[0]])
def test_a_node_counts_the_same_however_it_is_called_and_is_reset(call: Any) -> None:
    node = PSN(channels=4, T=3)
    figures = energy(Product(call, node), [{"x": torch.randn(3, 1, 4)}])
    assert figures["energy.macs"] == 0
    assert figures["energy.neurons_mj"] == pytest.approx(millijoules(3 * 12, 0))
    lif = LIF(channels=4)
    counted = [energy(Product(call, lif), [{"x": torch.randn(3, batch, 4)}])["energy.neurons_mj"] for batch in (1, 2)]
    assert counted[1] == pytest.approx(2 * counted[0])
    assert lif.v is None


def test_spikingjellys_own_nodes_count_and_others_leave_the_total_open() -> None:
    lif = spikingjelly("neuron").LIFNode
    x = torch.randn(3, 1, 4)
    figures = energy(Product(lambda linear, node, x: linear(node(x)), nn.Linear(4, 5), lif(step_mode="m")), x_of(x))
    assert figures["energy.neurons_mj"] == pytest.approx(millijoules(12, 12))
    assert figures["energy.mj"] == figures["energy.synapses_mj"] + figures["energy.neurons_mj"]
    strange = type("Strange", (lif,), {})(step_mode="m")
    book = ledger(Product(lambda linear, node, x: linear(node(x)), nn.Linear(4, 5), strange), x_of(x))
    assert not {"energy.mj", "energy.neurons_mj", "energy.other_mj", "energy.total_mj"} & book.figures().keys()
    assert "energy.synapses_mj" in book.figures()
    assert book.uncounted == ["weights.1: Strange, which does not declare its `operations`"]
    assert "not counted: weights.1: Strange" in str(book)


def test_products_that_torch_keeps_to_itself() -> None:
    x = torch.randn(5, 2, 8)
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    figures = energy(Product(lambda layer, x: layer(x), encoder), [{"x": x}])
    assert figures["energy.macs"] == 10 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8
    assert encoder.training
    lstm = nn.LSTM(8, 8)
    assert energy(Product(lambda layer, x: layer(x)[0], lstm), [{"x": x}]) == {}
    bilinear = nn.Bilinear(8, 8, 3)
    assert energy(Product(lambda layer, x: layer(x, x), bilinear), [{"x": x}]) == {}
    y = torch.randn(3, 4)
    assert (
        energy(Product(lambda x, y: torch.addbmm(y, x, x.mT)), [{"x": torch.randn(2, 3, 5), "y": y[:, :3]}])[
            "energy.macs"
        ]
        == 2 * 9 * 5
    )
    assert energy(Product(lambda x: x @ x), [{"x": torch.randn(3, 3, dtype=torch.complex64)}])["energy.macs"] == 27


def test_a_model_is_as_before() -> None:
    model = Product(lambda norm, drop, x: drop(norm(x)), nn.BatchNorm1d(4), nn.Dropout())
    before = torch.get_rng_state(), model.weights[0].running_mean.clone()
    energy(model, [{"x": torch.randn(3, 4, generator=torch.Generator())}])
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(model.weights[0].running_mean, before[1])


class Mixing(TinyNeuron):
    """A node with a matrix product inside, which is its own affair."""

    def functional(self, x: Tensor, state: object = None, mask: Tensor | None = None) -> tuple[Tensor, object]:
        return super().functional(x @ torch.randn(x.shape[-1], x.shape[-1]), state, mask)

    def operations(self) -> tuple[float, float]:
        return 7, 2


@pytest.mark.parametrize("mask", [None, torch.tensor([[True], [False], [True]])])
def test_neurons_cost_what_they_say(mask: Tensor | None) -> None:
    node = Mixing(channels=4)
    model = Product(lambda node, x: node.functional(x, None, mask), node)
    figures = energy(model, [{"x": torch.randn(3, 1, 4)}])
    steps = 12 if mask is None else 8
    assert (figures["energy.macs"], figures["energy.accumulations"]) == (0, 0)
    assert figures["energy.neurons_mj"] == figures["energy.mj"] == pytest.approx((4.6 * 7 + 0.9 * 2) * steps * 1e-9)
    assert "functional" not in vars(node)


def test_a_neuron_that_does_not_say_leaves_the_total_open() -> None:
    figures = energy(TinyForCausalLM(TinyConfig()), [{"input_ids": torch.tensor([[1, 2, 3]])}])
    assert figures["energy.synapses_mj"] > 0
    assert not {"energy.mj", "energy.neurons_mj"} & figures.keys()


def test_of_a_run(tmp_path: Path) -> None:
    with offered(), contextlib.redirect_stdout(io.StringIO()):
        path = write_recipe(tmp_path)
        for name, changes in {"spiking": [], "ann": ["model.twin=true"], "off": ["measure.energy=false"]}.items():
            assert run.execute(load(path, [f"output={tmp_path / name}", "train.max_steps=2", *changes])) == 0
    spiking, ann, off = (read_json(tmp_path / name / "metrics.json") for name in ("spiking", "ann", "off"))
    assert not any(name.startswith("energy.") for name in off)
    assert ann["energy.accumulations"] == 0
    assert ann["energy.mj"] == ann["energy.synapses_mj"] == pytest.approx(millijoules(ann["energy.macs"], 0))
    assert spiking["energy.accumulations"] > 0
    assert not (tmp_path / "off" / "ledger.json").exists()
    book = read_json(tmp_path / "spiking" / "ledger.json")
    assert "layers.0.neuron: TinyNeuron" in book["not_counted"][0]
    assert sum(row["macs"] for row in book["rows"] if row["kind"] == "product") == spiking["energy.macs"]


def test_a_recipe_that_demands_spikes(tmp_path: Path) -> None:
    with offered():
        changes = [f"output={tmp_path / 'run'}", "train.max_steps=2", "model.twin=true", "measure.purity=strict"]
        with pytest.raises(UserError) as refused:
            run.execute(load(write_recipe(tmp_path), changes))
    assert refused.value.exit_code == 2
    assert str(refused.value) == (
        "measure.purity: strict: TinyForCausalLM is not made of spikes: layers.0.up: mm multiplies float x weights; "
        "layers.0.neuron: gelu between spikes; layers.0.down: addmm multiplies float x weights and 4 more"
    )
    assert not (tmp_path / "run").exists()


def test_a_recipe_names_the_tables_that_there_are() -> None:
    assert set(get_args(MEASURE["costs"].annotation)) == TABLES.keys()
