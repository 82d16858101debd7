"""`sj-lang bench RECIPE`."""

import json
import re

import pytest
import torch

from sj_lang import cli
from sj_lang.bench.recipe import TrainingStep
from sj_lang.bench.timing import machine
from sj_lang.commands import bench
from sj_lang.errors import UserError
from sj_lang.recipe import load

pytest.importorskip("sj_lang_language")

SMALL = ["model.hidden_size=16", "model.num_hidden_layers=1", "task.length=16", "train.per_device_train_batch_size=2"]


def test_runs_take_turns_and_the_fastest_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "lm/quickstart", "--repeat", "2", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert machine("cpu") in printed
    rows = re.findall(r"^  (spiking|ann) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["spiking", "ann"]
    ratios = [float(row[4]) for row in rows]
    assert min(ratios) == 1
    for _, middle, least, most, _ in rows:
        assert 0 < float(least) <= float(middle) <= float(most)


def test_a_recipe_without_runs_is_one_row_and_seeds_count_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["lm/quickstart", "runs=null", "seeds=[0, 1]", "--repeat", "1", *SMALL]) == 0
    assert len(re.findall(r"1\.00$", capsys.readouterr().out, re.MULTILINE)) == 1
    assert bench.main(["lm/quickstart", "runs=null", "--repeat", "2", *SMALL, "--json"]) == 0
    (rounds,) = json.loads(capsys.readouterr().out)["step_ms"].values()
    assert len(rounds) == 2


def test_a_step_learns_on_the_first_training_batch() -> None:
    recipe = dict(load("lm/quickstart", SMALL).children())["spiking"]
    step = TrainingStep(recipe)
    assert step.batch["input_ids"].shape == (2, 16)
    before = {name: value.clone() for name, value in step.model.named_parameters()}
    step()
    assert all(value.grad is None for value in step.model.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in step.model.named_parameters())


def test_an_unknown_recipe_and_a_misspelt_key_are_named() -> None:
    with pytest.raises(UserError, match="lm/quickstart"):
        bench.main(["lm/quikstart"])
    with pytest.raises(UserError, match="hidden_size"):
        bench.main(["lm/quickstart", "model.hiden_size=3"])
