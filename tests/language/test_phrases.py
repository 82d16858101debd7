"""Validation for a train set with phrases of its own sentences."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sj_lang_language.data.tables import phrases
from sj_lang_language.data.tables.examples import Examples
from sj_lang_language.tasks.glue import Glue

from sj_lang import build
from sj_lang.errors import UserError


def treebank(sentences: int = 200, seed: int = 0) -> Examples:
    """Sentences over few words, so that they share phrases, and all halves of halves of each,
    in any order.
    """
    rng = random.Random(seed)
    texts = set()

    def add(words: list[str]) -> None:
        texts.add(" ".join(words))
        if len(words) > 1:
            middle = rng.randrange(1, len(words))
            add(words[:middle])
            add(words[middle:])

    for _ in range(sentences):
        add([f"w{rng.randrange(40)}" for _ in range(rng.randrange(3, 12))])
    rows = sorted(texts)
    rng.shuffle(rows)
    labels = np.array([int("w1" in text.split()) for text in rows])
    return Examples(first=rows, second=None, labels=labels, places=[f"line {row}" for row in range(len(rows))])


def inside(text: str, sentence: str) -> bool:
    return f" {text} " in f" {sentence} "


def test_no_part_of_a_validation_sentence_is_left_unless_another_sentence_has_it() -> None:
    whole = treebank()
    train, validation, dropped = phrases.cut(whole, 40)
    assert len(validation) == 40
    assert len(train) + len(validation) + dropped == len(whole)
    assert not set(train.first) & set(validation.first)
    sentences = [t for t in whole.first if not any(t != other and inside(t, other) for other in whole.first)]
    assert set(validation.first) <= set(sentences)
    kept = [one for one in sentences if one not in set(validation.first)]
    assert train.first == [text for text in whole.first if any(inside(text, one) for one in kept)]
    assert dropped > 0, "phrases of validation sentences alone"
    shared = [text for text in train.first if any(inside(text, one) for one in validation.first)]
    assert shared, "phrases that both have in common stay in train"


def test_labels_keep_their_rows_and_their_proportion() -> None:
    whole = treebank(400)
    train, validation, _ = phrases.cut(whole, 0.25)
    for part in (train, validation):
        assert part.labels is not None
        assert part.labels.tolist() == [int("w1" in text.split()) for text in part.first]
    sentences = [*phrases._sentences([tuple(text.split()) for text in whole.first])]
    assert len(validation) == pytest.approx(len(sentences) / 4, abs=1)
    share = sum("w1" in one for one in sentences) / len(sentences)
    assert validation.labels is not None
    assert validation.labels.mean() == pytest.approx(share, abs=1 / len(validation))


def test_repeated_sentences_go_together_whatever_their_white_space() -> None:
    texts = ["a b c", "a  b c ", "d e f", "d e", "g h"]
    whole = Examples(first=texts, second=None, labels=None, places=texts)
    for count in (1, 2):
        train, validation, _ = phrases.cut(whole, count)
        assert ("a b c" in train.first) == ("a  b c " in train.first)
        assert ("a b c" in validation.first) == ("a  b c " in validation.first)


def test_it_is_the_same_every_time() -> None:
    assert phrases.cut(treebank(), 20)[1].first == phrases.cut(treebank(), 20)[1].first


@pytest.mark.parametrize("share", [0, 200, 5000])
def test_too_much(share: float) -> None:
    whole = treebank(20)
    with pytest.raises(UserError, match="cannot cut"):
        phrases.cut(whole, share)


def test_glue_cuts_whole_sentences_for_sst2(tmp_path: Path) -> None:
    whole = treebank()
    assert whole.labels is not None
    rows = "".join(f"{text} \t{label}\n" for text, label in zip(whole.first, whole.labels, strict=True))
    (tmp_path / "SST-2").mkdir()
    for part in ("train", "dev"):
        (tmp_path / f"SST-2/{part}.tsv").write_text("sentence\tlabel\n" + rows)

    def prepared(**options: Any) -> Any:
        words = build.part("tokenizer", {"type": "wordpiece", "vocab_size": 90})
        return Glue(name="sst2", data=str(tmp_path), **options).prepare(words, seed=0)

    ready = prepared(validation=40)
    train, validation, gone = phrases.cut(whole, 40)
    for made, wanted in ((ready.train, train), (ready.validation, validation)):
        texts = [ready.tokenizer.decode(item["input_ids"], skip_special_tokens=True) for item in made]
        assert texts == wanted.first
    assert (
        f"validation: 40 whole sentences are cut from train to choose the checkpoint; {gone} phrases" in ready.notes[0]
    )
    at_random = prepared(validation=40, phrases=False)
    assert len(at_random.train) + len(at_random.validation) == len(whole)
    assert prepared(validation=0).validation is None
    with pytest.raises(UserError, match="mrpc has pairs of texts"):
        Glue(name="mrpc", phrases=True)


@pytest.mark.slow
def test_sst2_has_the_sentences_of_the_treebank() -> None:
    folder = os.environ.get("SJ_LANG_DATA")
    if folder is None:
        pytest.skip("needs SJ_LANG_DATA, a folder with SST-2/train.tsv")
    lines = (Path(folder) / "SST-2" / "train.tsv").read_text(encoding="utf-8").split("\n")[1:]
    rows = [line.split("\t") for line in lines if line]
    whole = Examples(
        first=[row[0] for row in rows],
        second=None,
        labels=np.array([int(row[1]) for row in rows]),
        places=[row[0] for row in rows],
    )
    train, validation, dropped = phrases.cut(whole, 500)
    # 6,920 rows in SST-2's paper
    assert len(phrases._sentences([tuple(text.split()) for text in whole.first])) == 6885
    assert len(validation) >= 500
    assert dropped > 3000
    lengths = [len(text.split()) for text in validation.first]
    assert 18 < np.mean(lengths) < 21, "as long as the sentences of dev, 19.9 words"
    assert np.mean([len(text.split()) for text in train.first]) < 11
