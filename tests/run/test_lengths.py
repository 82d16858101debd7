"""Batches of one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from sj_lang import run
from sj_lang.recipe import load
from sj_lang.run import batches
from sj_lang.run.lengths import OneLength

LENGTHS = np.random.default_rng(0).geometric(0.15, size=5_003).clip(max=40).tolist()


@pytest.mark.parametrize("batch", [1, 16, 64, 6_000])
def test_an_epoch_has_each_example_once(batch: int) -> None:
    sampler = OneLength(LENGTHS, batch=batch, seed=0)
    assert sorted(sampler) == list(range(len(sampler)))


def test_all_batches_but_one_per_length_hold_one_length() -> None:
    order = [*OneLength(LENGTHS, batch=16, seed=0)]
    held = [{LENGTHS[index] for index in order[start : start + 16]} for start in range(0, len(order), 16)]
    assert sum(len(lengths) > 1 for lengths in held) < len(set(LENGTHS))
    mixed = [lengths for lengths in held[:-1] if len(lengths) > 1]
    assert mixed, "this set has leftovers"
    assert all(max(one) <= min(other) or max(other) <= min(one) for one in mixed for other in mixed if one is not other)
    firsts = [min(lengths) for lengths in held]
    assert firsts != sorted(firsts), "batches come in any order"


def test_an_epoch_is_drawn_from_seed_and_number() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = OneLength(LENGTHS, batch=16, seed=seed)
        sampler.set_epoch(epoch)
        return [*sampler]

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert [*OneLength(LENGTHS, batch=16, seed=0)] == order(0, 0)


def test_the_trainer_reads_the_data_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Told(OneLength):
        def __init__(self, lengths: Any, **options: Any) -> None:
            super().__init__(lengths, **options)
            made.append({"examples": len(lengths), "epochs": [], **options})

        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(epoch)
            made[-1]["epochs"].append(epoch)

    monkeypatch.setattr(batches, "OneLength", Told)
    changes = ["output=r", "train.max_steps=-1", "train.num_train_epochs=2", "seed=3"]
    with tiny.offered():
        recipe = load(tiny.write_recipe(tmp_path), [*changes, "train.train_sampling_strategy=group_by_length"])
        assert run.execute(recipe) == 0
    assert made[-1]["seed"] == 3
    assert made[-1]["epochs"][-1] == 1, "the second epoch is drawn anew"
