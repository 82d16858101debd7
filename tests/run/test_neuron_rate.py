"""`train.neuron_learning_rate`: the neurons are a group of the optimizer, without weight decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_recipe
from tiny_model import TinyNeuron
from torch import nn

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.monitor import neuron_tensors
from sj_lang.recipe import load
from sj_lang.run import assembly
from sj_lang.run.console import Console
from sj_lang.run.trainer import RunTrainer

RATE = "train.neuron_learning_rate=0.5"
NO_EFFECT = "train.neuron_learning_rate has no effect: the model has no neurons with parameters"


def trainer(folder: Path, *changes: str) -> tuple[RunTrainer, assembly.Job]:
    job = assembly.assemble(load(write_recipe(folder), ["train.weight_decay=0.1", *changes]), folder)
    return RunTrainer(job, Console(muted=True)), job


def names(made: RunTrainer, group: dict[str, Any]) -> set[str]:
    of = {id(parameter): name for name, parameter in made.model.named_parameters()}
    return {of[id(parameter)] for parameter in group["params"]}


def test_neurons_are_a_group_of_their_own(tmp_path: Path) -> None:
    made, job = trainer(tmp_path, RATE)
    decayed, plain, neurons = made.create_optimizer().param_groups
    thresholds = {"layers.0.neuron.threshold", "layers.1.neuron.threshold"}
    assert (names(made, neurons), neurons["lr"], neurons["weight_decay"]) == (thresholds, 0.5, 0.0)
    for group, decay in ((decayed, 0.1), (plain, 0.0)):
        assert (group["lr"], group["weight_decay"]) == (0.01, decay)
        assert not names(made, group) & thresholds
    every = {name for name, _ in made.model.named_parameters()}
    assert set.union(*(names(made, group) for group in (decayed, plain, neurons))) == every
    assert NO_EFFECT not in job.notes
    assert len(made.create_optimizer().param_groups) == 3, "a second call makes no second group"


def test_without_it_nothing_is_moved(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path)
    groups = made.create_optimizer().param_groups
    assert [group["lr"] for group in groups] == [0.01, 0.01]


def test_modules_of_neurons_and_shared_parameters_count_once() -> None:
    class Scales(nn.Module):
        of_neurons = True

        def __init__(self, node: nn.Module) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.node = node
            self.linear = nn.Linear(3, 3)

    node = TinyNeuron(channels=3)
    model = nn.ModuleList([Scales(node), Scales(node)])
    found = {id(parameter) for parameter in neuron_tensors(model)}
    assert len(neuron_tensors(model)) == 3
    assert found == {id(node.threshold), id(model[0].scale), id(model[1].scale)}


def test_neurons_learn_at_their_rate_under_the_schedule(tmp_path: Path) -> None:
    """At rate 0 they stay; the others move, and so do the neurons at the rate of all."""
    still, _ = trainer(tmp_path, "train.neuron_learning_rate=0.0", "train.max_steps=2", f"output={tmp_path / 'a'}")
    before = {name: parameter.detach().clone() for name, parameter in still.model.named_parameters()}
    still.train()
    for name, parameter in still.model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("threshold" in name), name
    moving, _ = trainer(tmp_path, "train.max_steps=2", f"output={tmp_path / 'b'}")
    moving.train()
    assert not torch.equal(dict(moving.model.named_parameters())["layers.0.neuron.threshold"], torch.ones(16))


def test_a_model_without_neurons_is_trained_and_a_note_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["train.max_steps=2", "train.eval_steps=2", RATE]
    runs = "runs: {spiking: {}, ann: {model: {twin: true}}}\n"
    assert run.execute(load(write_recipe(tmp_path, runs), [*short, "output=s"])) == 0
    notes = {name: read_json(tmp_path / f"s/{name}/manifest.json")["notes"] for name in ("spiking", "ann")}
    assert NO_EFFECT in notes["ann"]
    assert NO_EFFECT not in notes["spiking"]
    assert f"note: {NO_EFFECT}" in capsys.readouterr().out
    assert run.execute(load(write_recipe(tmp_path), ["train.max_steps=2", "train.eval_steps=2", "output=t"])) == 0
    for name in ("s/ann", "t"):
        assert run.evaluate(tmp_path / name) == 0


def test_rates_that_are_none(tmp_path: Path) -> None:
    for value in ("-1", "fast", ".nan"):
        with pytest.raises(UserError, match=r"train\.neuron_learning_rate: expected a finite number >= 0 or null"):
            load(write_recipe(tmp_path), [f"train.neuron_learning_rate={value}"])
