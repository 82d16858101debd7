"""Masked language modelling: masks, pairs, exact figures, streams, and bad input."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sj_lang_language.data.text import corpus, stream
from sj_lang_language.data.text.pairs import ELSEWHERE, NEXT, documents, pairs
from sj_lang_language.tasks.masked_lm import MaskedLM
from stock_bert import offered, write_recipe

from sj_lang import build
from sj_lang.errors import Unreachable, UserError
from sj_lang.recipe import load
from sj_lang.run import execute
from sj_lang.task import Prepared

TEXT = "\n\n".join(
    "".join(
        f"{verse} and {bottle} green bottles hanging on the wall of house {verse * bottle}.\n" for bottle in range(4)
    )
    for verse in range(60)
)
WORDPIECE = {"type": "wordpiece", "vocab_size": 120}


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stream, "SHUFFLED", 50)
    with offered():
        yield


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text(TEXT)
    return str(tmp_path / "book.txt")


def prepare(tokenizer: Any = None, seed: int = 0, **options: Any) -> Prepared:
    return MaskedLM(**options).prepare(build.part("tokenizer", tokenizer or WORDPIECE), seed=seed)


def items(data: Any) -> list[dict[str, torch.Tensor]]:
    return [data[i] for i in range(len(data))]


def restored(item: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.where(item["labels"] != -100, item["labels"], item["input_ids"])


def test_labels_are_the_masked_tokens_and_nothing_else(book: str) -> None:
    ready = prepare(data=book, length=16)
    tokenizer, found = ready.tokenizer, items(ready.train)
    ids = tokenizer(TEXT[: int(len(TEXT) * 0.9)], add_special_tokens=False)["input_ids"]
    whole = torch.cat([restored(item)[1:-1] for item in found])
    assert whole.tolist() == ids[: len(found) * 14]
    chosen = torch.cat([item["labels"] != -100 for item in found])
    labels = torch.stack([item["labels"] for item in found])
    assert bool((labels[:, [0, -1]] == -100).all())  # [CLS] and [SEP]
    some = 1 - 0.85**14  # a window in which none is chosen is drawn again
    assert chosen.float().mean().item() == pytest.approx(0.15 / some * 14 / 16, rel=0.1)
    inputs = torch.cat([item["input_ids"] for item in found])[chosen]
    assert (inputs == tokenizer.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.05)


def test_masks_are_new_in_each_epoch_and_fixed_in_evaluation(book: str) -> None:
    first, second, other = (prepare(data=book, length=16, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train[3]["input_ids"], second.train[3]["input_ids"])
    assert not torch.equal(first.train[3]["labels"], other.train[3]["labels"])
    before = first.train[3]["labels"]
    first.train.set_epoch(1)
    assert not torch.equal(first.train[3]["labels"], before)
    for split in ("validation", "test"):
        one, two = ((ready.tests | {"validation": ready.validation})[split] for ready in (first, other))
        assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(items(one), items(two), strict=True))


@pytest.mark.parametrize("length", [8, 16, 33])
def test_each_held_out_token_is_maskable_in_one_window(book: str, length: int) -> None:
    """The last window ends with the text; what it shares with the one before is context only."""
    ready = prepare(data=book, length=length)
    windows = ready.tests["test"].items
    ids = ready.tokenizer(TEXT[int(len(TEXT) * 0.95 + 1e-6) :], add_special_tokens=False)["input_ids"]
    open_ids = torch.cat([item["input_ids"][~item["special_tokens_mask"]] for item in items(windows)])
    assert open_ids.tolist() == ids
    assert all(len(item["input_ids"]) == length for item in items(windows))


def test_every_window_has_a_label(book: str) -> None:
    ready = prepare(data=book, length=8, mlm_probability=0.01)
    assert all((item["labels"] != -100).sum() >= 1 for item in items(ready.train))


def test_figures_are_exact_whatever_the_batches(book: str) -> None:
    ready = prepare(data=book, length=16)
    test = items(ready.tests["test"])
    torch.manual_seed(0)
    scores = [torch.randn(16, len(ready.tokenizer)) for _ in test]
    reduced = [
        ready.reduce(torch.stack(scores[i : i + 3]), ready.collate(test[i : i + 3])["labels"])
        for i in range(0, len(test), 3)
    ]
    arrays = tuple(np.concatenate([part[i].numpy() for part in reduced]) for i in range(3))
    found = ready.metrics("test", arrays, np.zeros(0))
    logits, labels = torch.cat(scores).double(), torch.cat([item["labels"] for item in test])
    nats = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100).item()
    assert found["loss"] == pytest.approx(nats, rel=1e-6)
    assert ready.loss == "mean negative log likelihood of a masked token, in nats"
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    at = labels != -100
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels)[at].float().mean().item())


def test_a_tokenizer_without_a_mask_token_gets_one(book: str) -> None:
    ready = prepare("characters", data=book, length=16)
    assert ready.tokenizer.mask_token_id == ready.model["vocab_size"] - 1
    assert any("no mask token" in note for note in ready.notes)
    assert torch.equal(restored(ready.train[0]), torch.tensor(ready.tokenizer(TEXT[:16])["input_ids"]))


# Pairs


def test_documents_are_what_blank_lines_part() -> None:
    assert documents("a\nb\n\n \nc\r\n\r\n\r\nd\n\n") == ["a\nb", "c", "d"]


def test_half_of_the_pairs_go_on_and_the_others_are_from_elsewhere() -> None:
    texts = [torch.arange(100 * i, 100 * i + 20 + i % 30) for i in range(200)]
    found = list(pairs(texts, texts, 12, random.Random(0)))
    assert sum(label for _, _, label in found) / len(found) == pytest.approx(0.5, abs=0.05)
    for first, second, label in found:
        assert len(first) >= 1
        assert len(second) >= 1
        assert len(first) + len(second) <= 12
        follows = int(second[0]) == int(first[-1]) + 1
        assert follows if label == NEXT else int(second[0]) // 100 != int(first[0]) // 100
    lengths = {kind: np.mean([len(b) for _, b, label in found if label == kind]) for kind in (NEXT, ELSEWHERE)}
    assert lengths[NEXT] == pytest.approx(lengths[ELSEWHERE], abs=0.5)  # the length does not tell


def test_pairs_are_framed_and_padded(book: str) -> None:
    task = MaskedLM(data=book, length=24, nsp=True)
    assert (task.auto_class, task.pads) == ("AutoModelForPreTraining", True)
    ready = task.prepare(build.part("tokenizer", WORDPIECE), seed=0)
    tokenizer = ready.tokenizer
    assert ready.label_names == ["labels", "next_sentence_label"]
    for item in items(ready.train)[:50]:
        valid = int(item["attention_mask"].sum())
        ids, kinds = restored(item)[:valid], item["token_type_ids"][:valid]
        assert int(ids[0]) == tokenizer.cls_token_id
        assert int(ids[-1]) == tokenizer.sep_token_id
        middle = int(kinds.argmax())
        assert int(ids[middle - 1]) == tokenizer.sep_token_id
        assert bool((kinds[middle:] == 1).all())
        special = [0, middle - 1, *range(valid - 1, 24)]
        assert bool((item["labels"][special] == -100).all())
        assert bool((item["input_ids"][valid:] == tokenizer.pad_token_id).all())


# Runs


@pytest.mark.parametrize("nsp", [False, True], ids=["mlm", "mlm+nsp"])
def test_a_run_learns_and_writes_its_figures(book: str, tmp_path: Path, nsp: bool) -> None:
    import json

    path = write_recipe(tmp_path, Path(book))
    assert execute(load(path, [f"task.nsp={nsp}", "train.max_steps=30", "output=out"])) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation.loss"] for line in lines if "validation.loss" in line]
    assert losses[-1] < losses[0]
    assert found["test.perplexity"] == pytest.approx(math.exp(found["test.loss"]))
    assert 0 <= found["test.accuracy"] <= 1
    assert ("test.nsp_accuracy" in found) == nsp


def test_a_resumed_run_sees_the_masks_it_would_have_seen(book: str, tmp_path: Path) -> None:
    import json
    import shutil

    path = write_recipe(tmp_path, Path(book))
    common = ["train.num_train_epochs=2", "train.max_steps=-1", "train.save_steps=20", "train.eval_steps=20"]
    execute(load(path, [*common, "output=whole"]))
    last = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    folder = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", folder)
    (folder / "metrics.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    steps = sorted(int(place.name.split("-")[1]) for place in folder.glob("checkpoint-*"))
    shutil.rmtree(folder / f"checkpoint-{steps[-1]}")
    execute(load(path, [*common, "output=parts"]), resume=folder)
    again = json.loads((folder / "metrics.json").read_text())
    assert again["test.loss"] == last["test.loss"]


# Streams


def test_a_stream_of_files_is_the_text_in_windows(book: str) -> None:
    ready = prepare(data=book, length=16, streaming=True, held_out=5)
    assert not hasattr(ready.train, "__len__")
    assert len(ready.validation) == len(ready.tests["test"]) == 5
    ids = ready.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    held = [restored(item)[1:-1] for item in (*items(ready.validation), *items(ready.tests["test"]))]
    assert torch.cat(held).tolist() == ids[: 10 * 14]
    seen = list(islice(ready.train, 200))
    assert [item["labels"].tolist() for item in seen] == [i["labels"].tolist() for i in islice(ready.train, 200)]
    assert all(item["input_ids"].shape == (16,) and (item["labels"] != -100).any() for item in seen)
    text = f" {' '.join(map(str, ids))} "
    inner = [f" {' '.join(map(str, restored(item)[1:-1].tolist()))} " for item in seen]
    # all but those across the end of the text
    assert sum(window in text for window in inner) > 0.95 * len(seen)
    starts = [text.find(window) for window in inner]
    assert starts != sorted(starts)


def test_what_a_stream_holds_out_is_not_trained_on(tmp_path: Path) -> None:
    rows = [f"number {i} stands alone in row {i} and has some words after it" for i in range(80)]
    (tmp_path / "rows.txt").write_text("\n \n".join(rows))
    ready = prepare({"type": "wordpiece", "vocab_size": 200}, data="rows.txt", length=16, streaming=True, held_out=6)
    seen = [text.strip() for text in ready.train.sources[0].texts(ready.train.held[0], seed=3)]
    held = rows[: len(rows) - len(seen)]
    assert seen == rows[len(held) :]
    text = " ".join(ready.tokenizer.decode(restored(item)[1:-1]) for item in items(ready.tests["test"]))
    numbers = [int(word) for word in text.split() if word.isdigit()]
    assert numbers
    assert max(numbers) < len(held)


def test_workers_of_a_stream_share_its_files_and_hold_out_the_same(tmp_path: Path) -> None:
    """What is held out is in one file; the worker that reads
    the other one must not skip rows of its own.
    """
    (tmp_path / "books").mkdir()
    for name, word in (("a", "apple"), ("b", "banana")):
        (tmp_path / "books" / f"{name}.txt").write_text("\n\n".join(f"{word} {i} is red or yellow" for i in range(90)))
    options = {"data": "books", "length": 16, "streaming": True, "held_out": 5}
    ready = prepare({"type": "wordpiece", "vocab_size": 200}, **options)
    loader = torch.utils.data.DataLoader(ready.train, batch_size=4, num_workers=2, collate_fn=ready.collate)
    texts = [ready.tokenizer.decode(restored(item)) for item in islice(_unbatched(loader), 200)]
    assert sum("apple" in text for text in texts) > 50
    assert sum("banana" in text for text in texts) > 50
    assert not [text for text in texts if "apple 3 is" in text]  # one of the first rows


def _unbatched(loader: Any) -> Iterator[dict[str, torch.Tensor]]:
    for batch in loader:
        yield from ({name: value[i] for name, value in batch.items()} for i in range(len(batch["labels"])))


def test_a_stream_with_pairs_from_two_sources(book: str, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("\n\n".join(f"line {i} of another book of lines" for i in range(400)))
    ready = prepare(data=[book, "more.txt"], length=24, streaming=True, held_out=4, nsp=True)
    seen = list(islice(ready.train, 100))
    labels = [int(item["next_sentence_label"]) for item in seen]
    assert 25 < sum(labels) < 75
    texts = [ready.tokenizer.decode(restored(item)) for item in seen]
    assert any("bottles" in text for text in texts)
    assert any("another" in text for text in texts)


def test_a_run_on_a_stream_goes_on_after_the_end_of_the_text(book: str, tmp_path: Path) -> None:
    import json

    path = write_recipe(tmp_path, Path(book))
    changes = ["task.streaming=true", "task.held_out=5", "train.max_steps=60", "output=out"]
    assert execute(load(path, changes)) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["train.steps"] == 60
    assert math.isfinite(found["test.loss"])
    with pytest.raises(UserError, match=r"train.max_steps: set it"):
        execute(load(path, [*changes[:2], "train.max_steps=-1", "output=no"]))


def test_a_dry_run_without_network_checks_all_but_the_data(
    tmp_path: Path, book: str, offline: Callable[[], float], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, Path(book))
    changes = ["task.data=[hub:wikimedia/wikipedia/20231101.en]", "task.streaming=true", "model.vocab_size=999"]
    assert execute(load(path, changes), dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "NOT checked" in shown
    assert "hub:wikimedia/wikipedia/20231101.en" in shown
    assert "vocab_size 999" in shown
    assert "total" in shown  # the table of parameters
    assert not (tmp_path / "runs").exists()
    # the model is built all the same
    with pytest.raises(UserError, match=r"num_attention_heads|hidden size"):
        execute(load(path, [*changes, "model.num_attention_heads=3"]), dry_run=True)
    with pytest.raises(Unreachable, match="cannot be reached"):
        execute(load(path, changes))
    assert offline() < 60


# Bad input


def test_several_texts_are_cut_one_by_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name * 100)
    parts = corpus.parts(["a.txt", "b.txt"], [0.8, 0.1, 0.1])
    assert {name: (part.count("a"), part.count("b")) for name, part in parts.items()} == {
        "train": (80, 80),
        "validation": (10, 10),
        "test": (10, 10),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 4}, r"task\.length is 4; expected 8 or more"),
        ({"mlm_probability": 0.0}, "mlm_probability is 0.0"),
        ({"mlm_probability": 1.0}, "mlm_probability is 1.0"),
        ({"split": [0.9, 0.2, 0.1]}, "add up to 1"),
        ({"held_out": 0}, r"task\.held_out is 0; expected 1 or more"),
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskedLM(**options)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a few words only\n" * 3, {"length": 64}, r"too short: each part needs 62 tokens"),
        ("one paragraph without an end\n" * 40, {"nsp": True}, r"1 document\(s\) in 'train'.*blank lines"),
        (TEXT[:2000], {"streaming": True, "held_out": 500}, r"too short: task.held_out asks for 1000 windows"),
    ],
)
def test_texts_that_do_not_do(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare(data="text.txt", **options)


def test_data_that_are_not_there(tmp_path: Path, book: str) -> None:
    for options in ({"data": "nowhere"}, {"data": "nowhere", "streaming": True}, {"data": [book, "nowhere"]}):
        with pytest.raises(UserError, match="no file or folder nowhere"):
            prepare(**options)
    with pytest.raises(UserError, match=r"task.data is not set"):
        prepare()
    (tmp_path / "latin.txt").write_bytes(TEXT.encode() + b"\xe9")
    with pytest.raises(UserError, match=r"latin.txt cannot be read as UTF-8"):
        prepare(data="latin.txt", streaming=True)
    with pytest.raises(UserError, match="cannot be streamed"):
        prepare(data={"train": book}, streaming=True)
    with pytest.raises(UserError, match=r"\[CLS\] and \[SEP\]"):
        prepare("characters", data=book, nsp=True)


def test_a_list_of_texts_is_checked_in_the_recipe(tmp_path: Path, book: str) -> None:
    path = write_recipe(tmp_path, Path(book))
    assert load(path, [f"task.data=[{book}, {book}]"]).task["data"] == [book, book]
    with pytest.raises(UserError, match=r"task.data.1.*'nowhere' is not a registered source"):
        load(path, [f"task.data=[{book}, nowhere]"])
    with pytest.raises(UserError, match="found an empty list"):
        load(path, ["task.data=[]"])


def test_the_rows_of_a_stream_are_joined_until_they_fill_a_window() -> None:
    class Words:
        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    class Room:
        room = 5

    reader = stream.Reader(Words(), Room(), paired=False)  # type: ignore[arg-type]
    found = [document.tolist() for document in reader.documents(iter(["1 2", "3", "4 5 6", "7 8 9 10 11 12", "13"]))]
    assert found == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13]]
