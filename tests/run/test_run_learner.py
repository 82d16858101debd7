"""A task that trains its model itself: its lines, its test data, its end, what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import TinyForCausalLM
from tiny_task import TinyText

from sj_lang import run
from sj_lang.bench.recipe import time_steps
from sj_lang.errors import Interrupted, RunFailed, UserError
from sj_lang.recipe import load
from sj_lang.task import Log, Prepared

STEPS = 4
RECIPE = """\
recipe: 1
name: tiny/learner
task: {type: tiny-text}
tokenizer: {type: letters}
model: {type: tiny}
train: {max_steps: 4, learning_rate: 0.1, use_cpu: true, disable_tqdm: true}
output: run
"""


class ToyLearner:
    """Adds 1 to a weight at each step; `played` counts how often it was asked to play."""

    reads = frozenset({"max_steps", "learning_rate"})

    def __init__(self, step: Mapping[int, Any]) -> None:
        self.step, self.played = step, 0

    def train(self, model: Any, arguments: Any, log: Log) -> None:
        for step in range(1, arguments.max_steps + 1):
            with torch.no_grad():
                next(model.parameters()).add_(arguments.learning_rate)
            what = self.step.get(step)
            if what == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            log(step, {"return": what if isinstance(what, float) else float(step)} if step % 2 == 0 else {})

    def play(self, model: Any) -> None:
        assert not model.training
        self.played += 1


@pytest.fixture
def learners(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny task with a learner, and a recipe. `step`: what happens at a step."""
    Path("learner.yaml").write_text(RECIPE)
    made: dict[str, Any] = {"step": {}}
    usual = TinyText.prepare

    def prepare(self: TinyText, tokenizer: Any, *, seed: int) -> Prepared:
        ready = usual(self, tokenizer, seed=seed)
        ready.validation = None
        ready.learner = ToyLearner(made["step"])
        before = ready.metrics
        learner = ready.learner
        ready.metrics = lambda split, reduced, labels: {**before(split, reduced, labels), "played": learner.played}
        return ready

    monkeypatch.setattr(TinyText, "prepare", prepare)
    return made


def test_it_trains_and_its_test_data_are_played_first(learners: dict[str, Any]) -> None:
    run.execute(load("learner.yaml"))
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["test.played"] == 1
    assert metrics["train.steps"] == STEPS
    assert metrics["train.seconds"] > 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train.return"]) for line in lines] == [(2, 2.0), (4, 4.0)]
    assert "firing_rate.mean" in lines[0]
    assert not list(Path("run").glob("checkpoint-*"))
    run.evaluate(Path("run"))
    assert json.loads(Path("run/eval.json").read_text())["test.played"] == 1


def test_a_figure_that_is_not_finite_ends_the_run(learners: dict[str, Any]) -> None:
    learners["step"] = {4: float("nan")}
    with pytest.raises(RunFailed, match="stopped at step 4: return is nan"):
        run.execute(load("learner.yaml"))


def test_a_signal_ends_it_and_a_resumed_run_begins_anew(learners: dict[str, Any]) -> None:
    learners["step"] = {3: "signal"}
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM at step 3; this task begins anew"):
        run.execute(load("learner.yaml"))
    learners["step"] = {}
    run.execute(load("run/recipe.yaml", []), resume="run")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert json.loads(Path("run/metrics.json").read_text())["train.steps"] == STEPS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.max_steps=-1", r"train.max_steps: set it; the task '.*' has steps and no epochs"),
        (
            "train.weight_decay=0.1",
            r"train.weight_decay: the task '.*' trains by itself and does not read it; it reads",
        ),
        ("measure.ablate=true", r"measure.ablate: the test data of the task '.*' depend on the whole model"),
    ],
)
def test_what_it_would_ignore_is_refused(
    learners: dict[str, Any], monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    monkeypatch.setattr(TinyForCausalLM, "parts", lambda self: {}, raising=False)
    with pytest.raises(UserError, match=message):
        run.execute(load("learner.yaml", [change]), dry_run=True)


def test_its_steps_are_not_timed_as_if_they_were_the_trainers(learners: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="bench: the task 'tiny-text' trains by itself"):
        time_steps(load("learner.yaml"), rounds=1)
