"""WordPiece: BERT's form, trained the same in every process, or read from a vocab.txt."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertTokenizer

from sj_lang import build
from sj_lang.errors import UserError

TEXTS = ["The quick brown fox, jumping!", "The lazy dogs sleep; naïve foxes jump.", "日本 quickly jumped 日"] * 4


def make(texts: list[str] = TEXTS, **options: Any) -> Any:
    return build.part("tokenizer", {"type": "wordpiece", **options})(texts=iter(texts))


def words(tokenizer: Any) -> list[str]:
    return sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)


@pytest.mark.parametrize("level", ["words", "characters"])
def test_form_and_round_trip(level: str, tmp_path: Path) -> None:
    tokenizer = make(level=level, vocab_size=120)
    assert words(tokenizer)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    batch = tokenizer(["The fox", "dogs"], ["jumps", "a lazy dog"], padding=True)
    for ids, kinds, mask in zip(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], strict=True):
        tokens = tokenizer.convert_ids_to_tokens(ids)
        first = tokens.index("[SEP]")
        last = tokens.index("[SEP]", first + 1)
        assert tokens[0] == "[CLS]"
        assert kinds[: last + 1] == [0] * (first + 1) + [1] * (last - first)
        assert mask == [1] * (last + 1) + [0] * (len(ids) - last - 1), "padding goes to the right"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS, padding=True).data == tokenizer(TEXTS, padding=True).data
    assert again.mask_token == "[MASK]"


def test_words_are_folded_and_split_into_pieces_that_the_text_taught() -> None:
    tokenizer = make(vocab_size=120)
    assert tokenizer.tokenize("THE Fox") == ["the", "fox"]
    assert tokenizer.tokenize("naive") == tokenizer.tokenize("NAÏVE")
    assert "[UNK]" not in tokenizer.tokenize("foxdog")
    assert tokenizer.tokenize("日本") == ["日", "本"]
    assert tokenizer.tokenize("☃") == ["[UNK]"]
    assert make(vocab_size=150, lowercase=False).tokenize("The")[0].startswith("T")


def test_characters_of_any_script_one_by_one() -> None:
    tokenizer = make(level="characters", vocab_size=120)
    assert tokenizer.tokenize("日本 fox!") == ["日", "本", "f", "o", "x", "!"]
    assert tokenizer.decode(tokenizer("日本fox")["input_ids"], skip_special_tokens=True) == "日本fox"
    assert len(make(level="characters", vocab_size=10)) == 10
    assert "日" not in words(make(level="characters", min_frequency=9))


def test_the_same_texts_give_the_same_ids_in_every_process(tmp_path: Path) -> None:
    """The trainer of `tokenizers` alone does not."""
    program = (
        "import hashlib, pathlib\n"
        "from sj_lang_language.tokenizers.wordpiece import wordpiece\n"
        "words = pathlib.Path('words.txt').read_text().split('\\n')\n"
        "found = wordpiece(texts=words, vocab_size=300).get_vocab()\n"
        "print(hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest())\n"
    )
    from pydoc_data.topics import topics

    (tmp_path / "words.txt").write_text(topics["assert"] + topics["booleans"])
    runs = [
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    found = make((tmp_path / "words.txt").read_text().split("\n"), vocab_size=300).get_vocab()
    here = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    assert {run.stdout.strip() for run in runs} == {here}


def test_a_vocab_txt_gives_the_ids_of_bert(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "the", "\u2028", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    bert = BertTokenizer.from_pretrained(tmp_path)
    for place in (tmp_path, tmp_path / "vocab.txt"):
        tokenizer = make([], vocab=str(place))
        text = "the UNAFFABLE, [MASK] the!"
        assert tokenizer(text)["input_ids"] == bert(text)["input_ids"] == [3, 9, 6, 7, 8, 2, 5, 9, 11, 4]
        assert tokenizer.pad_token_id == 0
    with pytest.raises(UserError, match=r"only a vocab.txt; write tokenizer: \{type: wordpiece, vocab: "):
        build.part("tokenizer", {"type": "pretrained", "name": str(tmp_path)})(texts=[])


def test_what_is_wrong_with_a_vocabulary_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer.vocab: no file .*vocab.txt"):
        make([], vocab=str(tmp_path))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(UserError, match=r"lacks \[MASK\]"):
        make([], vocab=str(tmp_path))
    (tmp_path / "vocab.txt").write_text("[PAD]\na\nb\na\n")
    with pytest.raises(UserError, match=r"'a' twice, on lines 2 and later"):
        make([], vocab=str(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 6\)"):
        make([], vocab=str(tmp_path))


def test_sizes_that_are_small() -> None:
    with pytest.raises(UserError, match="vocab_size is 5; wordpiece needs more than its 5"):
        make(vocab_size=5)
    assert words(make(["aab" * 9], vocab_size=8))[5:7] == ["##a", "a"], "the most frequent characters, half of the rest"
    with pytest.raises(UserError, match="no character that occurs often enough"):
        make(["", " "])


def test_the_real_vocabulary_of_bert() -> None:
    data = os.environ.get("SJ_LANG_DATA")
    if not data:
        pytest.skip("SJ_LANG_DATA, the folder of the real data, is not set")
    folder = Path(data) / "vocab" / "bert-base-uncased"
    tokenizer, bert = make([], vocab=str(folder)), BertTokenizer.from_pretrained(folder)
    text = "Naïve 日本語 it's unaffable; x\ty [MASK] Ünïted\u00a0States 1999"
    assert len(tokenizer) == 30522
    assert tokenizer(text)["input_ids"] == bert(text)["input_ids"]
