"""The task: windows that miss and repeat no token, exact figures, and errors that name lengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sj_lang_language.tasks import texts
from sj_lang_language.tasks.causal_lm import CausalLM

from sj_lang import build, hf
from sj_lang.errors import UserError
from sj_lang.task import Prepared

hf.shield()  # before transformers' models and Trainer

TEXT = "".join(f"{number} bottles of beer on the wall.\n" for number in range(100))


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text(TEXT)
    return str(tmp_path / "book.txt")


def prepare(tokenizer: Any = "characters", **options: Any) -> Prepared:
    return CausalLM(**options).prepare(build.part("tokenizer", tokenizer), seed=0)


def test_the_parts_are_cut_once_and_no_window_reaches_across(book: str) -> None:
    ready = prepare(data=book, length=16, split=[0.8, 0.1, 0.1])
    first, second = int(len(TEXT) * 0.8), int(len(TEXT) * 0.9)
    decode = ready.tokenizer.decode
    last = ready.train[len(ready.train) - 1]
    assert decode(ready.train[0]["input_ids"]) == TEXT[:16]
    assert TEXT[:first].endswith(decode(last["shift_labels"])) or len(TEXT[:first]) % 16 != 1
    assert decode(ready.validation[0]["input_ids"]) == TEXT[first : first + 16]
    assert decode(ready.tests["test"][0]["input_ids"]) == TEXT[second : second + 16]
    texts = {decode(item["shift_labels"]) for item in (ready.train[i] for i in range(len(ready.train)))}
    assert all(text in TEXT[:first] for text in texts)


@pytest.mark.parametrize("length", [7, 16, 33])
def test_held_out_windows_predict_each_token_but_the_first_once(book: str, length: int) -> None:
    test = prepare(data=book, length=length, split=[0.9, 0, 0.1]).tests["test"]
    items = [test[i] for i in range(len(test))]
    targets = torch.cat([item["shift_labels"] for item in items])
    inputs = torch.cat([item["input_ids"] for item in items])
    scored = targets[targets != -100]
    ready = prepare(data=book, length=length, split=[0.9, 0, 0.1])
    assert ready.tokenizer.decode(scored) == TEXT[int(len(TEXT) * 0.9) + 1 :]
    assert torch.equal(inputs[1 : len(scored)], scored[:-1])
    assert all(item["input_ids"].shape == item["labels"].shape == (length,) for item in items)


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_training_windows_begin_at_every_stride(book: str, stride: int | None) -> None:
    train = prepare(data=book, length=16, stride=stride).train
    step, tokens = stride or 16, int(len(TEXT) * 0.9)
    assert len(train) == (tokens - 1 - 16) // step + 1
    assert torch.equal(train[1]["input_ids"][0], prepare(data=book, length=16, stride=1).train[step]["input_ids"][0])
    item = train[len(train) - 1]
    assert torch.equal(item["labels"][1:], item["shift_labels"][:-1])
    with pytest.raises(IndexError):
        train[len(train)]


def test_no_validation_without_a_share(book: str) -> None:
    assert prepare(data=book, length=16, split=[0.9, 0, 0.1]).validation is None
    assert prepare(data=book, length=16).validation is not None


@pytest.mark.parametrize("tokenizer", ["characters", {"type": "bpe", "vocab_size": 300}])
def test_figures_are_exact_whatever_the_batches(book: str, tokenizer: Any) -> None:
    ready = prepare(tokenizer, data=book, length=15)
    torch.manual_seed(0)
    test = ready.tests["test"]
    items = [test[i] for i in range(len(test))]
    scores = [torch.randn(15, len(ready.tokenizer)) for _ in items]
    reduced = []
    for start in range(0, len(items), 2):
        batch = ready.collate(items[start : start + 2])
        reduced.append(ready.reduce(torch.stack(scores[start : start + 2]), batch["shift_labels"]))
    arrays = tuple(np.concatenate([part[i].numpy() for part in reduced]) for i in range(3))
    found = ready.metrics("test", arrays, np.zeros(0))
    targets, logits = torch.cat([item["shift_labels"] for item in items]), torch.cat(scores)
    nats = torch.nn.functional.cross_entropy(logits.double(), targets, ignore_index=-100, reduction="sum").item()
    text = TEXT[int(len(TEXT) * 0.95 + 1e-6) :]
    first = ready.tokenizer.decode(items[0]["input_ids"][:1])
    assert found["loss"] == pytest.approx(nats / (targets != -100).sum().item(), rel=1e-5)
    assert ready.loss == "mean negative log likelihood of a token, in nats"
    assert found["bits_per_char"] == pytest.approx(nats / math.log(2) / (len(text) - len(first)), rel=1e-5)
    assert found["perplexity_per_word"] == pytest.approx(math.exp(nats / len(text[len(first) :].split())), rel=1e-4)
    right = (logits.argmax(-1) == targets)[targets != -100].float().mean().item()
    assert found["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("text", "words"),
    [("two words\n\nand\tthree more ", 5), ("x two", 1), ("x" + " " * 12, 0)],
    ids=["the first character is within a word", "it is a word", "no word after it"],
)
def test_the_perplexity_is_of_the_words_of_predicted_characters(tmp_path: Path, text: str, words: int) -> None:
    (tmp_path / "train.txt").write_text(TEXT + text)
    (tmp_path / "test.txt").write_text(text)
    ready = prepare(data=str(tmp_path), length=4, split=[1, 0, 0])
    for nats in (6.0, 1e5):
        reduced = (np.array([nats / 2] * 2), np.array([len(text) - 2, 1]), np.array([1, 0]))
        figures = ready.metrics("test", reduced, np.zeros(0))
        expected = math.exp(min(nats / words, 700)) if words else None
        assert figures.get("perplexity_per_word") == (pytest.approx(expected) if words else None)


def test_any_causal_model_of_transformers_is_scored_on_every_target(book: str, tmp_path: Path) -> None:
    """The last token of a window predicts too, also in a model from outside this package."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    ready = prepare(data=book, length=16)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(**ready.model, **sizes))
    batch = ready.collate([ready.train[0], ready.train[1]])
    out = model(**batch)
    right = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), batch["shift_labels"].flatten())
    torch.testing.assert_close(out.loss, right)
    settings = {"report_to": [], "use_cpu": True, "label_names": ready.label_names, "disable_tqdm": True}
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), **settings),
        data_collator=ready.collate,
        preprocess_logits_for_metrics=ready.reduce,
    )
    reduced = trainer.predict(ready.tests["test"]).predictions
    assert reduced[1].sum() == ready.fingerprint["test"]["characters"] - 1


def test_long_texts_are_tokenized_in_pieces(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare({"type": "bpe", "vocab_size": 300}, data=book, length=16)
    monkeypatch.setattr(texts, "PIECE", 100)
    pieces = list(texts.pieces(TEXT))
    assert "".join(pieces) == TEXT
    assert all(piece.endswith("\n") and len(piece) <= 100 for piece in pieces)
    ids = texts.encode(whole.tokenizer, TEXT)
    assert whole.tokenizer.decode(ids) == TEXT
    monkeypatch.setattr(texts, "PIECE", 5)
    assert "".join(texts.pieces(TEXT)) == TEXT


def test_what_the_model_must_know(book: str) -> None:
    ready = prepare(data=book, length=16)
    assert ready.model["vocab_size"] == len(set(TEXT[: int(len(TEXT) * 0.9)])) + 3
    assert ready.model["max_position_embeddings"] == 16
    assert ready.model["pad_token_id"] == 0
    assert ready.fingerprint["test"]["characters"] == len(TEXT) - int(len(TEXT) * 0.95 + 1e-6)


def test_unknown_characters_are_told(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "test.txt").write_text(TEXT + "☃☃")
    notes = prepare(data=str(tmp_path), length=16, split=[1, 0, 0]).notes
    assert any("test: 2 tokens are unknown (<unk>)" in note for note in notes)


def test_the_sample_prompt_is_the_beginning_of_the_test_text(book: str) -> None:
    task = CausalLM(data=book, length=64)
    ready = task.prepare(build.part("tokenizer", "characters"), seed=0)
    assert task.sample_prompt(ready) == TEXT[int(len(TEXT) * 0.95 + 1e-6) :][:8]


def test_a_text_shorter_than_a_window_says_the_lengths(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short a text, really" * 10)
    with pytest.raises(UserError) as caught:
        prepare(data=str(tmp_path / "short.txt"), length=32)
    assert "short.txt is too short" in str(caught.value)
    assert "train 216, validation 12, test 12" in str(caught.value)
    with pytest.raises(UserError, match=r"no text for 'test'.*train 240"):
        prepare(data=str(tmp_path / "short.txt"), length=8, split=[1, 0, 0])


@pytest.mark.parametrize("tokenizer", ["characters", {"type": "bpe", "vocab_size": 300}])
def test_no_text_is_too_short_for_the_message(tmp_path: Path, tokenizer: Any) -> None:
    """Cut into three, a few characters leave a part without any."""
    for size in range(1, 40):
        (tmp_path / "few.txt").write_text("x" * size)
        with pytest.raises(UserError, match=r"few\.txt (is too short: each part needs|has no text for 'train')"):
            prepare(tokenizer, data=str(tmp_path / "few.txt"), length=32)


@pytest.mark.parametrize("split", [[0.9, 0.1], [0.9, 0.2, 0.1], [0, 0.5, 0.5], [1.1, 0, -0.1]])
def test_a_split_that_is_none_is_refused(split: list[float]) -> None:
    with pytest.raises(UserError, match=r"task.split is .*add up to 1"):
        CausalLM(data="python-docs", split=split)


def test_a_recipe_without_data_asks_for_them() -> None:
    with pytest.raises(UserError, match=r"task.data is not set.*task.data=PATH"):
        prepare()


def test_no_length_of_zero() -> None:
    with pytest.raises(UserError, match="length 0"):
        CausalLM(data="python-docs", length=0)


def test_smoothed_labels_are_refused_in_a_recipe_and_shifted_by_the_plain_trainer(book: str, tmp_path: Path) -> None:
    from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
    from transformers import Trainer, TrainingArguments

    from sj_lang import run
    from sj_lang.recipe import load

    small = ["model.hidden_size=16", "model.num_hidden_layers=1", f"output={tmp_path / 'r'}", f"task.data={book}"]
    with pytest.raises(UserError, match=r"train\.label_smoothing_factor: only"):
        run.execute(load("lm/quickstart", [*small, "runs=null", "train.label_smoothing_factor=0.1"]), dry_run=True)

    model = SpikeDecoderForCausalLM(SpikeDecoderConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1))
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "eval_strategy": "no"}
    trainer = Trainer(model, TrainingArguments(str(tmp_path), label_smoothing_factor=1e-9, **settings))
    ids = torch.randint(9, (2, 12), generator=torch.Generator().manual_seed(0))
    found = trainer.compute_loss(model.eval(), {"input_ids": ids, "labels": ids.clone()})
    torch.testing.assert_close(found, model(ids, labels=ids).loss)
    texts = [{"input_ids": row, "labels": row} for row in ids.tolist()]
    # it finds the labels
    assert trainer.evaluate(texts)["eval_loss"] == pytest.approx(found.item(), rel=1e-5)


def test_the_test_text_is_read_again_in_longer_windows(book: str) -> None:
    ready = prepare(data=book, length=16, eval_lengths=[40, 20, 100_000])
    assert list(ready.tests) == ["test", "test@20", "test@40"]
    assert ready.model["max_position_embeddings"] == 40
    assert any("100,000 is left out, as the test text has" in note for note in ready.notes)
    targets = [
        torch.cat([item["shift_labels"] for item in map(data.__getitem__, range(len(data)))])
        for data in ready.tests.values()
    ]
    scored = [one[one != -100] for one in targets]
    assert all(torch.equal(one, scored[0]) for one in scored)


def test_the_beginning_of_the_training_text_is_read_as_the_test_is(book: str) -> None:
    ready = prepare(data=book, length=16, trained=True)
    test, trained = ready.tests["test"], ready.tests["trained"]
    assert len(trained) == len(test)
    read = torch.cat([item["shift_labels"] for item in map(trained.__getitem__, range(len(trained)))])
    first = torch.cat([ready.train[i]["shift_labels"] for i in range(len(trained))])
    assert torch.equal(read[read != -100], first[: int((read != -100).sum())])
    batch = ready.collate([trained[i] for i in range(len(trained))])
    reduced = ready.reduce(torch.randn(len(trained), 16, len(ready.tokenizer)), batch["shift_labels"])
    figures = ready.metrics("trained", tuple(part.numpy() for part in reduced), np.zeros(0))
    assert set(figures) == {"loss", "bits_per_char", "accuracy", "perplexity_per_word"}
    scored = int((read != -100).sum())
    text = ready.tokenizer.decode(read[:scored])
    assert len(text) == scored
    nats = figures["loss"] * scored
    assert figures["perplexity_per_word"] == pytest.approx(np.exp(nats / len(text.split())), rel=1e-5)


def test_the_first_and_the_last_tenth_of_windows_are_told_apart(book: str) -> None:
    ready = prepare(data=book, length=16, eval_lengths=[20])
    data = ready.tests["test@20"]
    batch = ready.collate([data[i] for i in range(len(data))])
    torch.manual_seed(0)
    logits = torch.randn(len(data), 20, len(ready.tokenizer))
    reduced = tuple(part.numpy() for part in ready.reduce(logits, batch["shift_labels"]))
    figures = ready.metrics("test@20", reduced, np.zeros(0))
    plain = ready.metrics("test", reduced[:3], np.zeros(0))
    assert plain.pop("perplexity_per_word") > 1
    assert set(figures) == {*plain, "bits_first_tenth", "bits_last_tenth"}
    assert {name: figures[name] for name in plain} == plain
    bits = figures["bits_per_char"] / figures["loss"]
    for name, part in (("bits_first_tenth", slice(2)), ("bits_last_tenth", slice(18, 20))):
        nats = torch.nn.functional.cross_entropy(
            logits[:, part].flatten(0, 1), batch["shift_labels"][:, part].flatten(), ignore_index=-100
        )
        assert figures[name] == pytest.approx(nats.item() * bits, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eval_lengths": [9]}, r"task\.eval_lengths is \[9\], expected different lengths of 10 tokens or more"),
        ({"eval_lengths": [20, 20]}, "expected different lengths of 10 tokens or more"),
        ({"repeat_lengths": [1]}, r"task\.repeat_lengths is \[1\], expected different lengths of 2 tokens or more"),
        ({"repeat_lengths": [8, 8]}, "expected different lengths of 2 tokens or more"),
    ],
)
def test_senseless_lengths_are_refused(book: str, options: dict[str, list[int]], text: str) -> None:
    with pytest.raises(UserError, match=text):
        prepare(data=book, length=16, **options)
