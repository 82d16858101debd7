"""The task recall: strings that follow the seed, labels on the repeat only, exact figures."""

from __future__ import annotations

import math

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

    task = Recall(symbols=5, period=(3, 6), texts=20, tested=7, distances=[11])
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


def test_fillers_stand_between_the_string_and_its_repeat():
    """In training from none to the longest string's number, at a distance exactly so many."""
    ready = prepare(distances=[40, 9])
    filler = ready.tokenizer.convert_tokens_to_ids(".")
    assert list(ready.tests) == ["test", "longer", "distance@9", "distance@40"]
    spread = {"train": range(7), "validation": range(7), "distance@9": {9}, "distance@40": {40}}
    for split, expected in spread.items():
        data = {"train": ready.train, "validation": ready.validation, **ready.tests}[split]
        found = set()
        for index in range(len(data)):
            item, string = data[index], data.string(index)
            inputs, targets = item["input_ids"], item["shift_labels"]
            assert len(inputs) == 12 + max(expected) == data.length
            fillers = int((inputs == filler).sum())
            found.add(fillers)
            begins = len(string) + fillers
            assert torch.equal(inputs[: len(string)], string)
            assert (inputs[len(string) : begins] == filler).all()
            assert torch.equal(inputs[begins:], string.repeat(9)[: len(inputs) - begins])
            assert (targets[:begins] == -100).all(), "the first symbol of the repeat, which nothing tells, is scored"
            assert torch.equal(targets[begins:-1], inputs[begins + 1 :])
            assert int((targets != -100).sum()) >= 6, "not a whole repeat"
        assert found <= set(expected)
        assert len(found) > 1 or split.startswith("distance")
    for split in ("test", "longer"):
        data = ready.tests[split]
        assert not any((data[index]["input_ids"] == filler).any() for index in range(len(data)))


def test_strings_that_must_come_again_are_told():
    assert not any("fewer than" in note for note in prepare().notes)
    notes = prepare(symbols=2, period=(2, 3)).notes
    assert any("there are 12 strings, fewer than the 20 texts" in note for note in notes)


def test_without_distances_nothing_changes():
    plain, far = prepare(), prepare(distances=[9])
    assert len(far.tokenizer) == len(plain.tokenizer) + 1
    assert set(plain.tests) == {"test", "longer"}
    assert not plain.notes
    assert plain.tokenizer.convert_tokens_to_ids(".") == plain.tokenizer.unk_token_id
    for one, other in ((plain.train, far.train), (plain.tests["longer"], far.tests["longer"])):
        assert plain.tokenizer.decode(one.string(3)) == far.tokenizer.decode(other.string(3))


def test_few_texts_are_tested_at_a_long_distance():
    ready = prepare(distances=[100, 100_000, 1_000_000])
    assert [len(ready.tests[f"distance@{far}"]) for far in (100, 100_000, 1_000_000)] == [7, 2, 1]
    assert "distance@100000: 2 texts of 100,012 tokens" in ready.notes
    assert ready.model["max_position_embeddings"] == 1_000_012
    ready = Recall(distances=[100, 1000, 10_000]).prepare(build.part("tokenizer", "characters"), seed=0)
    assert [len(data) for name, data in ready.tests.items() if "@" in name] == [512, 252, 26], "the page says so"
    assert Recall(distances=[100]).outline() == {"max_position_embeddings": 140}


def test_who_knows_the_string_is_right_at_any_distance():
    """The figures of a model that finds the string at the beginning, and of one that cannot."""
    ready = prepare(distances=[30])
    data = ready.tests["distance@30"]
    batch = ready.collate([data[index] for index in range(len(data))])
    answers = batch["shift_labels"].clamp(min=0)
    for knows, accuracy, loss in ((True, 1.0, 0.0), (False, 0.0, math.log(len(ready.tokenizer)))):
        logits = 40.0 * knows * torch.nn.functional.one_hot(answers, len(ready.tokenizer))
        reduced = tuple(part.numpy() for part in ready.reduce(logits, batch["shift_labels"]))
        figures = ready.metrics("distance@30", reduced, None)
        assert figures == {"loss": pytest.approx(loss, abs=1e-6), "accuracy": accuracy}


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
        ({"distances": [0]}, r"task\.distances is \[0\], expected different numbers of fillers"),
        ({"distances": [9, 9]}, "expected different numbers of fillers, 1 or more each"),
        ({"distances": [9, 10**9]}, "has 1,000,000,000; no more than 10,000,000 fillers can be tested"),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(UserError, match=text):
        prepare(**options)
