"""The kit of a task: the tiny one passes, each planted fault is named."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tiny_task
import torch
from tiny_model import TinyConfig, TinyForCausalLM
from tiny_task import TinyText, letters

from sj_lang.testing.components import PartFailed
from sj_lang.testing.models import check_task


class Undeclared(TinyText):
    auto_class = None  # type: ignore[assignment]


class Shuffles(TinyText):
    def prepare(self, tokenizer: Any, *, seed: int) -> Any:
        data = super().prepare(tokenizer, seed=seed)
        random.shuffle(data.train.rows)
        return data


class Denies(TinyText):
    pads = False


class AveragesBatches(TinyText):
    def prepare(self, tokenizer: Any, *, seed: int) -> Any:
        data = super().prepare(tokenizer, seed=seed)

        def reduce(logits: Any, labels: Any) -> Any:
            sums, counts = tiny_task.reduce(logits, labels)
            return (sums / counts).mean()[None], torch.ones(1)

        data.reduce = reduce
        return data


class Remembers(TinyText):
    """A figure is the mean over all that was asked for so far."""

    def prepare(self, tokenizer: Any, *, seed: int) -> Any:
        data = super().prepare(tokenizer, seed=seed)
        one, sizes = data.metrics, [0.0]

        def metrics(split: str, reduced: Any, labels: Any) -> Any:
            sizes.append(float(reduced[0].sum()))
            return {**one(split, reduced, labels), data.select: sum(sizes) / len(sizes)}

        data.metrics = metrics
        return data


def model(data: Any) -> Any:
    torch.manual_seed(0)
    return TinyForCausalLM(TinyConfig(**data.model))


def test_a_healthy_task_passes() -> None:
    assert len(check_task(TinyText, tokenizer=letters, model=model)) == 4


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Undeclared, "declares_what_it_is"),
        (Shuffles, "the_same_seed_gives_the_same_data"),
        (Denies, "pads_as_declared"),
        (AveragesBatches, "figures_are_exact"),
        (Remembers, "figures_are_exact"),
    ],
)
def test_each_fault_of_a_task_is_named(fault: Any, check: str) -> None:
    with pytest.raises(PartFailed) as caught:
        check_task(fault, tokenizer=letters, model=model)
    assert set(caught.value.failures) == {check}
