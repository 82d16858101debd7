"""The task recall: strings that follow the seed, labels on the repeat only, exact figures."""

from __future__ import annotations

import pytest
import torch
from sj_lang_language.tasks.recall import Recall

from sj_lang import build, hf
from sj_lang.errors import UserError
from sj_lang.testing.models import check_task

hf.shield()


def prepare(tokenizer="characters", seed=0, **options):
    task = Recall(**{"symbols": 5, "period": (3, 6), "texts": 20, "tested": 7, **options})
    return task.prepare(build.part("tokenizer", tokenizer), seed=seed)


def test_the_kit_of_tasks():
    from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

    def model(prepared):
        return SpikeDecoderForCausalLM(SpikeDecoderConfig(**prepared.model, hidden_size=8, num_hidden_layers=1))

    task = Recall(symbols=5, period=(3, 6), texts=20, tested=7)
    assert check_task(lambda: task, tokenizer=build.part("tokenizer", "characters"), model=model)


@pytest.mark.parametrize(("split", "times"), [("train", 1), ("test", 1), ("longer", 2)])
def test_the_repeat_is_scored_and_nothing_else(split, times):
    ready = prepare()
    data = ready.train if split == "train" else ready.tests[split]
    lengths = set()
    for index in range(len(data)):
        item, string = data[index], data.string(index)
        lengths.add(len(string))
        inputs, targets = item["input_ids"], item["shift_labels"]
        assert len(inputs) == 12 * times
        assert torch.equal(inputs[: len(string)], string)
        assert torch.equal(inputs[len(string) :], inputs[: len(inputs) - len(string)])
        assert (targets[: len(string)] == -100).all()
        assert torch.equal(targets[len(string) : -1], inputs[len(string) + 1 :])
        assert torch.equal(item["labels"][1:], targets[:-1])
    assert lengths <= set(range(3 * times, 6 * times + 1))
    assert len(lengths) > 1


def test_strings_follow_the_seed_and_differ_between_splits():
    assert prepare().fingerprint == prepare().fingerprint != prepare(seed=1).fingerprint
    ready = prepare(symbols=20, period=(15, 20))
    strings = [part.string(0).tolist() for part in (ready.train, ready.validation, *ready.tests.values())]
    assert all(one != other for i, one in enumerate(strings) for other in strings[:i])
    assert ready.baselines() == {"chance": {"test.accuracy": 0.05}}


def test_the_sample_begins_the_repeat():
    ready = prepare()
    prompt = Recall(symbols=5).sample_prompt(ready)
    assert prompt[:2] == prompt[-2:]
    assert len(prompt) == len(ready.tests["test"].string(0)) + 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": 1}, "expected 2 to 52"),
        ({"symbols": 53}, "expected 2 to 52"),
        ({"period": (6, 3)}, "the shortest string, 2 or more, and the longest"),
        ({"texts": 9}, "texts 9 must be 10 or more"),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(UserError, match=text):
        prepare(**options)
