"""Tokenizers: saved and loaded again they are the same, and decoding gives the text back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sj_lang_language.tokenizers.pieces import pieces
from transformers import AutoTokenizer

from sj_lang import build, hf
from sj_lang.errors import UserError

TEXT = "The quick brown fox,\n\n  jumps\tover the lazy dog.\r\nÆther, naïve; 日本語 🎉 <pad> <unk> </s> x  y \n" * 3


def make(kind: str, **options: Any) -> Any:
    return build.part("tokenizer", {"type": kind, **options})(texts=[TEXT[:50], TEXT[50:]])


def test_long_words_are_cut_for_the_training() -> None:
    texts = ["a word", "x" * 1200 + " y", " " * 1000, "", "z" * 500]
    cut = list(pieces(texts))
    assert "".join(cut) == "".join(texts)
    assert max(len(word) for piece in cut for word in piece.split()) == 500
    assert cut[0] == "a word"
    assert cut[1:4] == ["x" * 500, "x" * 500, "x" * 200 + " y"]


@pytest.mark.parametrize("name", ["characters", "bpe"])
def test_round_trip_before_and_after_saving(name: str, tmp_path: Path) -> None:
    tokenizer = make(name)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXT)["input_ids"] == ids
    assert again.decode(ids) == TEXT
    assert again.get_vocab() == tokenizer.get_vocab()
    batch = again(["f", "The lazy dog jumps"], padding=True)
    assert batch["input_ids"][0][0] == again.pad_token_id == 0
    assert batch["attention_mask"][0][0] == 0, "padding goes to the left"


def test_characters_are_those_of_the_training_text_in_order() -> None:
    tokenizer = make("characters")
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert words == ["<pad>", "<unk>", "<|endoftext|>", *sorted(set(TEXT))]
    assert tokenizer("fox☃")["input_ids"][-1] == tokenizer.unk_token_id == 1
    assert len(tokenizer("<pad>")["input_ids"]) == 5


def test_bpe_has_the_size_that_was_asked_for_and_no_unknown_text() -> None:
    tokenizer = make("bpe", vocab_size=270)
    assert len(tokenizer) == 270
    assert len(tokenizer(TEXT)["input_ids"]) < len(TEXT.encode())
    assert tokenizer.decode(tokenizer("☃ ß")["input_ids"]) == "☃ ß"
    assert tokenizer.pad_token_id not in tokenizer("<pad>")["input_ids"]
    with pytest.raises(UserError, match="vocab_size is 256; bpe needs 257 or more"):
        make("bpe", vocab_size=256, boundary=False)


def test_a_tokenizer_from_a_folder(tmp_path: Path) -> None:
    trained = make("bpe", vocab_size=260)
    trained.save_pretrained(tmp_path / "made")
    assert make("pretrained", name=str(tmp_path / "made")).get_vocab() == trained.get_vocab()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"tokenizer.name: .*empty"):
        make("pretrained", name=str(tmp_path / "empty"))


def test_without_a_name_it_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    trained = make("bpe", vocab_size=260)
    trained.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "manifest.json").write_text('{"status": "running"}')
    part = build.part("tokenizer", "pretrained")
    with pytest.raises(UserError, match=r"tokenizer.name: .*run holds no trained model: the run is running"):
        make("pretrained", name=str(tmp_path / "run"))
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        assert part(texts=[], checkpoint=str(place)).get_vocab() == trained.get_vocab()
    assert make("pretrained", name=str(tmp_path / "run")).get_vocab() == trained.get_vocab()
    with pytest.raises(UserError, match=r"model\.init_from is not set: .* model\.init_from=FOLDER"):
        part(texts=[], checkpoint=None)
    assert (
        make("characters").get_vocab()
        == build.part("tokenizer", "characters")(texts=[TEXT], checkpoint="anything").get_vocab()
    ), "a tokenizer that does not ask for it does not get it"


def test_a_tokenizer_of_the_hub_without_a_network_says_so_at_once(offline: Callable[[], float]) -> None:
    with pytest.raises(UserError, match=r"tokenizer.name: .*someone/something.*cannot be reached"):
        make("pretrained", name="hub:someone/something")
    assert offline() < hf.PATIENCE + 2


@pytest.mark.parametrize("name", ["characters", "bpe"])
def test_a_boundary_token_begins_and_ends_a_text(name: str, tmp_path: Path) -> None:
    """It is left out only if that is asked for."""
    plain, made = make(name, boundary=False), make(name)
    assert plain.bos_token is None
    assert made.bos_token_id == made.eos_token_id == made.convert_tokens_to_ids("<|endoftext|>") < 3
    assert made.bos_token_id not in made(TEXT + "<|endoftext|>")["input_ids"]
    assert made.decode(made(TEXT)["input_ids"]) == TEXT
    made.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token_id == made.bos_token_id


def test_the_boundary_counts_as_a_token_of_bpe() -> None:
    with pytest.raises(UserError, match="bpe needs 258 or more"):
        make("bpe", vocab_size=257)


def test_plain_characters_are_those_of_the_paper() -> None:
    tokenizer = build.part("tokenizer", {"type": "characters", "plain": True, "boundary": False})(texts=["Ж"])
    assert len(tokenizer) == 31
    ids = tokenizer("Don't -- go!\nNow; 5?")["input_ids"]
    assert tokenizer.decode(ids) == "don't   go. now  <unk>."
    assert tokenizer.unk_token_id in ids
