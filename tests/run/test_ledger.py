"""The ledger against networks counted by hand, to the last operation and byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from sj_lang.compat import spikingjelly
from sj_lang.energy import energy, ledger, millijoules
from sj_lang.energy.costs import TABLES
from sj_lang.errors import UserError
from sj_lang.spikingjelly.nodes import LIF

neuron, reset = spikingjelly("neuron"), spikingjelly("functional")


class Spiking(nn.Module):
    """Linear, LIF that always fires, Linear."""

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.first, self.node, self.second = nn.Linear(4, 3), node, nn.Linear(3, 2)
        nn.init.constant_(self.first.bias, 100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.node(self.first(x)))  # type: ignore[no-any-return]


class Mixed(nn.Module):
    """All that is neither product nor neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        y = x + functional.gelu(self.norm(x))
        return y.softmax(-1).mean(1)


@pytest.mark.parametrize("node", [LIF(channels=3), neuron.LIFNode(step_mode="m")])
def test_a_spiking_network_by_hand(node: nn.Module) -> None:
    book = ledger(Spiking(node), torch.randn(2, 1, 4))  # T = 2
    first, middle, second = book.rows
    assert (first.macs, first.accumulations, first.operands_text) == (2 * 4 * 3, 0, "float x weights")
    assert (first.bytes("weights"), first.bytes("activations")) == (4 * (12 + 3), 4 * (8 + 6))
    assert (middle.macs, middle.accumulations, middle.operands_text) == (6, 6, "binary")
    assert (middle.bytes("states"), middle.bytes("activations")) == (2 * 2 * 4 * 3, 4 * 6 + 6 / 8)
    assert (second.macs, second.accumulations, second.operands_text) == (0, 2 * 3 * 2, "binary x weights")
    assert (second.bytes("weights"), second.bytes("activations")) == (4 * (6 + 2), 6 / 8 + 4 * 4)
    figures = book.figures()
    moved = 60 + 56 + 48 + 24.75 + 32 + 16.75
    assert figures["energy.memory_mj"] == pytest.approx(1.25e-9 * moved)  # all fit into 8 KB
    assert figures["energy.mj"] == pytest.approx(millijoules(24 + 6, 12 + 6))
    assert sum(row["memory_pj"] for row in book.content()["rows"]) == pytest.approx(1.25 * moved)
    assert sum(row["compute_pj"] for row in book.content()["rows"]) == pytest.approx(4.6 * 30 + 0.9 * 18)
    total = 4.6 * 30 + 0.9 * 18 + 1.25 * moved
    twin = 4.6 * (24 + 12) + 1.25 * (60 + 56 + 32 + 24 + 16)
    assert figures["energy.total_mj"] == pytest.approx(1e-9 * total)
    assert figures["energy.ratio"] == pytest.approx(total / twin)
    assert figures["energy.mean_spike"] == 1
    assert figures["energy.crossover"] == pytest.approx((twin - (total - 0.9 * 12)) / (0.9 * 12))


def test_the_crossover_is_where_the_ratio_is_one() -> None:
    class Fires(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)  # type: ignore[no-any-return]

    spikes = torch.zeros(1, 64)
    spikes[0, :5] = 1
    crossover = energy(Fires(), spikes)["energy.crossover"]
    assert 5 < crossover < 7  # 4.6 / 0.9, and what is saved by moving bits
    costs = {"mac": crossover, "accumulation": 1.0, "other": 0.0, "memory": (), "source": "a test"}
    assert energy(Fires(), torch.ones(1, 64), costs=costs)["energy.ratio"] == pytest.approx(1 / crossover)


def test_what_is_neither_product_nor_neuron_by_hand() -> None:
    book = ledger(Mixed(), {"ids": torch.tensor([[1, 2, 3]])})  # 12 elements
    assert {row.operation: row.others for row in book.rows} == {
        "embedding": 0,
        "layer_norm": 5 * 12,
        "gelu": 2 * 12,
        "add": 12,
        "softmax": 4 * 12,
        "mean": 12,
    }
    assert book.rows[0].bytes() == 4 * (12 + 12)  # three rows of the table are read, and written
    figures = book.figures()
    assert figures["energy.other_mj"] == pytest.approx(4.6e-9 * 156)
    assert (figures["energy.mj"], figures["energy.ratio"]) == (0, pytest.approx(1))
    named = [("norm", "layer_norm"), ("model", "gelu"), ("model", "softmax")]
    assert book.impurities() == [f"{layer}: {operation} between spikes" for layer, operation in named]
    assert not book.impurities(strict=False)


def test_a_stock_bert_of_base_size() -> None:
    config = BertConfig(vocab_size=100, num_hidden_layers=1, attn_implementation="sdpa")
    figures = energy(BertModel(config, add_pooling_layer=False), {"input_ids": torch.ones(1, 128, dtype=torch.long)})
    assert round(12 * figures["energy.macs"] / 1e9, 3) == 11.174
    assert round(12 * figures["energy.mj"], 1) == 51.4
    assert (figures["energy.ratio"], "energy.crossover" in figures) == (1, False)


def resnet() -> nn.Module:
    pytest.importorskip("torchvision", reason="SpikingJelly's models import torchvision", exc_type=ImportError)
    pytest.importorskip("h5py", reason="SpikingJelly's models import h5py")
    zoo = spikingjelly("model.spiking_resnet")
    made: nn.Module = zoo.spiking_resnet18(num_classes=10, spiking_neuron=neuron.IFNode)
    return made


def test_spikingjellys_resnet_in_both_step_modes() -> None:
    net, x = resnet(), torch.rand(2, 1, 3, 16, 16)
    reset.set_step_mode(net, "m")
    whole = ledger(net, x)
    assert not whole.uncounted
    assert [row.layer for row in whole.rows if row.macs] == ["conv1"]  # all else takes spikes
    assert whole.figures()["energy.macs"] == 2 * 8 * 8 * 64 * 3 * 49
    reset.set_step_mode(net, "s")
    single = energy(net, x[0])
    assert single["energy.macs"] == whole.figures()["energy.macs"] / 2
    assert single["energy.neurons_mj"] == pytest.approx(whole.figures()["energy.neurons_mj"] / 2)


@pytest.mark.parametrize(
    ("values", "kind", "bits"),
    [
        ([0, 1, 0], "binary", 1),
        ([0, 0, 0], "binary", 1),
        ([-1, 1, 0], "ternary", 2),
        ([0, 3, 1], "integer, 0 to 3", 2),
        ([-4, 3, 1], "integer, -4 to 4", 4),
        ([2, 3, 0], "integer, 0 to 3", 2),
        ([0.5, 0.75, 0], "integer, 0 to 3", 2),
        ([0.3, 1, 0.1234], "float", 32),
    ],
)
def test_what_an_operand_is(values: list[float], kind: str, bits: int) -> None:
    linear = nn.Linear(3, 1, bias=False)
    book = ledger(linear, torch.tensor([values], dtype=torch.float32))
    assert book.rows[0].operands_text == f"{kind} x weights"
    assert book.rows[0].bytes("activations") == 3 * bits / 8 + 4
    assert bool(book.impurities()) == (kind == "float")


def test_a_table_of_another_chip() -> None:
    net, spikes = Spiking(LIF(channels=3)), torch.ones(2, 1, 4)
    figures = energy(net, spikes, costs="loihi")
    assert figures["energy.mj"] == pytest.approx(1e-9 * (23.6 * (24 + 12) + 81 * 6))
    assert figures["energy.memory_mj"] == 0
    book = ledger(net, torch.randn(2, 1, 4), costs="loihi")
    assert "energy.total_mj" not in book.figures()
    assert book.unpriced() == ["first: addmm (float x weights), has no price"]
    assert energy(net, spikes, costs="7nm")["energy.mj"] == pytest.approx(1e-9 * (1.69 * 6 + 0.38 * 42))
    assert all(costs.source for costs in TABLES.values())


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ("45", "no cost table '45'"),
        ({"mac": 4.6, "other": 4.6, "memory": (), "source": "me"}, "it lacks accumulation"),
        ({"mac": 1, "accumulation": 1, "other": 1, "memory": (), "source": "me", "macs": 2}, "it has macs"),
        (None, "the cost table is None; expected a name, 45nm, 7nm, loihi, or a dict of your own"),
        ({"mac": -1, "accumulation": 1, "other": 1, "memory": (), "source": "me"}, "has mac: -1; expected pJ"),
        (
            {"mac": 1, "accumulation": "x", "other": 1, "memory": (), "source": "me"},
            "has accumulation: 'x'; expected pJ",
        ),
        ({"mac": 1, "accumulation": 1, "other": 1, "memory": 3, "source": "me"}, "has memory: 3; expected pairs"),
        ({"mac": 1, "accumulation": 1, "other": 1, "memory": ((9, 1), (8, 2)), "source": "me"}, "the smallest first"),
        ({"mac": 1, "accumulation": 1, "other": 1, "memory": ((9, -1),), "source": "me"}, "expected pairs"),
    ],
)
def test_wrong_tables(costs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        energy(nn.Linear(2, 2), torch.ones(1, 2), costs=costs)


def test_a_batch_of_padding_only() -> None:
    model = BertModel(
        BertConfig(vocab_size=9, num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    )
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(UserError, match="padding only"):
        energy(model, {"input_ids": ids, "attention_mask": ids})


def test_an_operation_that_nobody_counts_is_named() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.interpolate(x, scale_factor=2)

    book = ledger(Unknown(), torch.randn(1, 1, 4))
    assert book.uncounted == ["model: upsample_nearest1d"]
    assert not {"energy.total_mj", "energy.other_mj", "energy.mj"} & book.figures().keys()
