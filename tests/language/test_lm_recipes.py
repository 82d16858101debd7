"""The recipes lm/*: what they say of themselves holds in a run of a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.folder import RunFolder
from sj_lang.recipe import load

TINY = ["model.hidden_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2", "task.length=16"]
SHORT = ["train.max_steps=2", "train.warmup_steps=1", "generate.max_new_tokens=4", "train.use_cpu=true"]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten\n"]
TEXT = "".join(f"{WORDS[number % 7]} bottles {WORDS[number % 10]} of beer on the wall " for number in range(400))


def test_bpe_trains_both_models_on_the_same_pieces_of_words(tmp_path: Path) -> None:
    """The validation comes from the training text, and a token is more than a character."""
    for name, text in (("train", TEXT), ("test", TEXT[: len(TEXT) // 8])):
        (tmp_path / f"{name}.txt").write_text(text)
    data = [f"task.data.{name}={tmp_path / name}.txt" for name in ("train", "test")]
    changes = [*TINY, *SHORT, *data, "tokenizer.vocab_size=300", f"output={tmp_path / 'runs'}"]
    run.execute(load("lm/bpe", changes))
    metrics = {name: RunFolder(tmp_path / "runs" / name).read_metrics() for name in ("spiking", "ann")}
    for figures in metrics.values():
        assert {"test.perplexity_per_word", "validation.perplexity_per_word", "test.bits_per_char"} <= set(figures)
        nats_per_char = figures["test.bits_per_char"] * 0.6931
        assert figures["test.loss"] > 1.5 * nats_per_char, "a token is a single character"
    assert "firing_rate.mean" in metrics["spiking"]
    assert "firing_rate.mean" not in metrics["ann"]


@pytest.mark.parametrize("name", ["quickstart", "shakespeare", "long", "bpe"])
def test_a_repeat_fits_into_the_trained_length(name: str) -> None:
    """So that a model with a table of positions has been trained on all of them."""
    recipe = load(f"lm/{name}")
    for run_name, single in dict(recipe.children()).items() or [("", recipe)]:
        assert [2 * length for length in single.task["repeat_lengths"]] == [single.task["length"]], run_name


def test_bpe_asks_for_a_text() -> None:
    with pytest.raises(UserError, match=r"task\.data is not set"):
        run.execute(load("lm/bpe"), dry_run=True)


def test_shakespeare_prices_spikes_and_not_its_twin(tmp_path: Path) -> None:
    """The price is part of the loss of training alone."""
    (tmp_path / "play.txt").write_text(TEXT)
    sizes = [*TINY, *SHORT, "runs.ann.model.num_attention_heads=2"]
    changes = [*sizes, "seeds=null", f"task.data={tmp_path / 'play.txt'}", "task.repeat_lengths=[8]"]
    run.execute(load("lm/shakespeare", [*changes, "runs.spiking.task.firing=1000", f"output={tmp_path / 'runs'}"]))
    metrics = {name: RunFolder(tmp_path / "runs" / name).read_metrics() for name in ("spiking", "ann")}
    assert metrics["spiking"]["train.loss"] > 10 > metrics["spiking"]["test.loss"]
    assert metrics["ann"]["train.loss"] < 10
    assert "firing_rate.mean" in metrics["spiking"]
    assert "firing_rate.mean" not in metrics["ann"]
