"""The network over sequences: its shapes, its twin, its spikes, its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_tasks.models.sequence_cnn import SequenceCNNConfig, SequenceCNNForImageClassification
from torch import nn
from transformers import AutoModelForImageClassification

from sj_lang.energy import ledger
from sj_lang.errors import UserError
from sj_lang.monitor import neuron_parameters

NEURONS: dict[str, Any] = {
    "lif": {"type": "lif", "v_threshold": 0.3},
    "psn": {"type": "psn", "T": 5},
    "sliding_psn": {"type": "sliding_psn", "k": 3},
    "binary": {"type": "dsn", "n": 1},
    "integer": {"type": "dsn", "n": 4},
}


def build(**options: Any) -> SequenceCNNForImageClassification:
    torch.manual_seed(0)
    config = SequenceCNNConfig(height=6, channels=8, layers=1, id2label=dict(enumerate("abc")), **options)
    return SequenceCNNForImageClassification(config)


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn(3, 5, 1, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_trains(name: str, x: torch.Tensor) -> None:
    model = build(neuron=NEURONS[name]).train()
    out = model(x, labels=torch.tensor([0, 1, 2]))
    assert out.logits.shape == (3, 3)
    out.loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_products_behind_the_first_take_spikes(x: torch.Tensor) -> None:
    book = ledger(build(neuron=NEURONS["integer"]).eval(), {"pixel_values": x})
    assert not book.uncounted
    wrong = book.impurities(strict=True)
    assert len(wrong) == 1, wrong  # the images themselves


def test_the_twin_has_the_same_shapes_and_sees_each_step_alone(x: torch.Tensor) -> None:
    model, twin = build(), build(twin=True).eval()
    shapes = {name: p.shape for name, p in model.named_parameters() if ".node." not in name}
    assert {name: p.shape for name, p in twin.named_parameters()} == shapes
    assert neuron_parameters(twin) == 0
    assert torch.allclose(twin(x).logits, twin(x.flip(1)).logits, atol=1e-6)
    assert not torch.allclose(model.eval()(x).logits, model(x.flip(1)).logits, atol=1e-6)


def test_sums_of_neighbours(x: torch.Tensor) -> None:
    (pool,) = (one for one in build(stages=1).layers if type(one).__name__ == "SumPool")
    assert torch.allclose(pool(x), nn.functional.avg_pool1d(x.flatten(0, 1), 2).view(3, 5, 1, 3) * 2)


@pytest.mark.parametrize("name", ["psn", "integer"])
def test_a_checkpoint_rebuilds_itself(name: str, x: torch.Tensor, tmp_path: Path) -> None:
    model = build(neuron=NEURONS[name]).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is SequenceCNNForImageClassification
    assert torch.equal(again(x).logits, model(x).logits)


def test_what_a_checkpoint_lacks_begins_as_new(x: torch.Tensor, tmp_path: Path) -> None:
    build(neuron=NEURONS["lif"]).save_pretrained(tmp_path)
    config = SequenceCNNConfig.from_pretrained(tmp_path, neuron=NEURONS["integer"] | {"alpha_init": 0.3})
    model = SequenceCNNForImageClassification.from_pretrained(tmp_path, config=config)
    assert all(p.isfinite().all() for p in model.parameters())
    node = model.layers[0].neurons.node
    assert torch.allclose(node.bias, build(neuron=config.neuron).layers[0].neurons.node.bias)


def test_labels_may_be_shares(x: torch.Tensor) -> None:
    model, labels = build().eval(), torch.tensor([0, 1, 2])
    shares = nn.functional.one_hot(labels, 3).float()
    assert torch.allclose(model(x, labels).loss, model(x, shares).loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 3}, "height 6 cannot be pooled 3 times by 2"),
        ({"kernel_size": 2}, "kernel_size is 2, expected an odd number"),
        ({"pool": 0}, "pool is 0, expected 1 or more"),
    ],
)
def test_sizes_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)
