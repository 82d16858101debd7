"""A text that is read twice: what it is worth to a model that copies, and to one without memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sj_lang_language.data.text.windows import RepeatedWindows
from sj_lang_language.tasks.causal_lm import REPEATED, CausalLM
from torch import Tensor

from sj_lang import build
from sj_lang.task import Prepared

TEXT = "".join(f"{number} bottles of beer on the wall.\n" for number in range(100))
N = 9
TOKENIZERS: list[Any] = ["characters", {"type": "bpe", "vocab_size": 300}]


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text(TEXT)
    return str(tmp_path / "book.txt")


def prepare(data: str, tokenizer: Any = "characters", **options: Any) -> Prepared:
    task = CausalLM(data=data, length=16, **{"repeat_lengths": [N], **options})
    return task.prepare(build.part("tokenizer", tokenizer), seed=0)


def figures(ready: Prepared, model: Callable[[Tensor], Tensor], split: str = f"repeat@{N}") -> dict[str, float]:
    """model: input_ids [B, L] -> logits [B, L, V]."""
    data = ready.tests[split]
    batches = [ready.collate([data[i] for i in range(k, min(k + 4, len(data)))]) for k in range(0, len(data), 4)]
    reduced = [ready.reduce(model(batch["input_ids"]), batch["shift_labels"]) for batch in batches]
    arrays = tuple(torch.cat(parts).numpy() for parts in zip(*reduced, strict=True))
    return dict(ready.metrics(split, arrays, np.zeros(0)))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_who_copies_pays_nothing_for_the_second_copy(book: str, tokenizer: Any) -> None:
    ready = prepare(book, tokenizer)
    vocabulary = len(ready.tokenizer)

    def copies(ids: Tensor) -> Tensor:
        """It knows what stood N - 1 tokens before the input, and before that nothing."""
        before = torch.nn.functional.one_hot(ids.roll(N - 1, 1), vocabulary).float()
        before[:, : N - 1] = 0
        return 40 * before

    found = figures(ready, copies)
    test = TEXT[int(len(TEXT) * 0.95 + 1e-6) :]
    ids = ready.tokenizer(test, add_special_tokens=False)["input_ids"]
    characters = (len(test) - len(ready.tokenizer.decode(ids[:1]))) / (len(ids) - 1)
    assert set(found) == {"loss", "bits_first", "bits_again"}
    assert found["bits_first"] == pytest.approx(math.log2(vocabulary) / characters, rel=1e-5)
    assert found["bits_again"] == pytest.approx(0, abs=1e-6)
    assert found["loss"] == pytest.approx(math.log(vocabulary) / 2, rel=1e-5)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_who_remembers_nothing_pays_the_same_again(book: str, tokenizer: Any) -> None:
    ready = prepare(book, tokenizer)
    torch.manual_seed(0)
    table = torch.randn(len(ready.tokenizer), len(ready.tokenizer))
    found = figures(ready, lambda ids: table[ids])
    assert found["bits_again"] == pytest.approx(found["bits_first"], rel=1e-6)
    assert found["bits_first"] > 1


def test_both_copies_score_the_same_tokens() -> None:
    tokens = torch.arange(100, 157)
    data = RepeatedWindows(tokens, 7, 8)
    places = set()
    for index in range(len(data)):
        item = data[index]
        window = item["input_ids"][:7]
        assert torch.equal(window, torch.arange(7) + window[0])
        assert torch.equal(item["input_ids"], torch.cat([window, window[:-1]]))
        ignored = torch.tensor([-100])
        assert torch.equal(item["shift_labels"], torch.cat([window[1:], ignored, window[1:]]))
        assert torch.equal(item["labels"][1:], item["shift_labels"][:-1])
        places |= set(window.tolist())
    assert len(places) == 7 * 8, "windows overlap"
    assert max(places) - min(places) == 55
    with pytest.raises(IndexError):
        data[8]


def test_how_many_windows_are_read_and_which_are_not(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepare(book, repeat_lengths=[20, 9, 100_000], eval_lengths=[12])
    characters = ready.fingerprint["test"]["characters"]
    assert list(ready.tests) == ["test", "test@12", "repeat@9", "repeat@20"]
    assert len(ready.tests["repeat@9"]) == characters // 9
    assert f"repeat@9: {characters // 9} windows of the test text are read twice" in ready.notes
    assert f"task.repeat_lengths: 100,000 is left out, as the test text has {characters:,} tokens" in ready.notes
    assert ready.model["max_position_embeddings"] == 39, "inputs of two copies, the last token predicts nothing"
    assert CausalLM(repeat_lengths=[20]).outline() == {"max_position_embeddings": 256}
    assert CausalLM(length=16, repeat_lengths=[20]).outline() == {"max_position_embeddings": 39}
    assert [len(data) for data in (prepare(book, repeat_lengths=[characters]).tests[f"repeat@{characters}"],)] == [1]

    assert REPEATED == 16_384, "the page and the docstring say so"
    monkeypatch.setattr("sj_lang_language.tasks.causal_lm.REPEATED", 50)
    few = prepare(book, repeat_lengths=[9, 60]).tests
    assert [len(few["repeat@9"]), len(few["repeat@60"])] == [5, 1]


def test_the_other_figures_do_not_change(book: str) -> None:
    torch.manual_seed(0)
    plain, ready = prepare(book, repeat_lengths=None, eval_lengths=[12]), prepare(book, eval_lengths=[12])
    table = torch.randn(len(ready.tokenizer), len(ready.tokenizer))
    for split in ("test", "test@12"):
        assert figures(ready, lambda ids: table[ids], split) == figures(plain, lambda ids: table[ids], split)
