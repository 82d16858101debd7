"""Sources of text, and how they fail: one sentence that names file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants
from sj_lang_language.data.text import corpus, text_files

from sj_lang import hf
from sj_lang.errors import UserError


def test_a_text_that_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.txt.gz"
    bomb.write_bytes(gzip.compress(b"a " * 1_000_000))
    assert len(text_files.read_file(bomb)) == 2_000_000
    monkeypatch.setattr(text_files, "SMALL", 1000)
    with pytest.raises(UserError, match=r"bomb\.txt\.gz unpacks to more than [\d,]+ bytes, 100 times its size"):
        text_files.read_file(bomb)


def test_a_line_without_end_is_streamed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LONGEST", 1000)
    (tmp_path / "a.txt").write_text("b" * 5500 + "\n\nend")
    rows = [row["text"] for row in text_files.stream(tmp_path / "a.txt")]
    assert "".join(rows) == "b" * 5500 + "\nend"
    assert max(map(len, rows)) <= 2000


def test_a_stream_of_utf_16_is_refused(tmp_path: Path) -> None:
    """Of plain English each second byte is zero, which is valid UTF-8."""
    (tmp_path / "a.txt").write_bytes("The sea.\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"a\.txt holds a zero byte: it is not text, or it is UTF-16"):
        list(text_files.stream(tmp_path / "a.txt"))


def test_python_docs_are_english_and_the_same_each_time() -> None:
    text = corpus.read("python-docs")["all"]
    assert len(text) > 300_000
    assert text == corpus.read("python-docs")["all"]
    assert text.index('The "assert" statement') < text.index("Binary arithmetic operations")


def test_text_and_gzip_files_keep_every_character(tmp_path: Path) -> None:
    text = "a\r\nb\n\tnaïve 日本\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert corpus.read(str(tmp_path / "a.txt")) == corpus.read(str(tmp_path / "b.txt.gz")) == {"all": text}


def test_a_folder_is_joined_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in {"b.txt": "B\n", "a.txt": "A", "sub/c.txt": "C", "notes.md": "no"}.items():
        (tmp_path / name).write_text(text)
    assert corpus.read(str(tmp_path)) == {"all": "A\nB\nC\n"}


def test_a_folder_with_train_txt_is_cut_already(tmp_path: Path) -> None:
    for name in ("train", "valid", "test", "other"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert corpus.read(str(tmp_path)) == {"train": "train", "validation": "valid", "test": "test"}
    (tmp_path / "dev.txt").write_text("dev")
    with pytest.raises(UserError, match="two files for 'validation'"):
        corpus.read(str(tmp_path))


def test_a_mapping_of_parts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = corpus.read({"train": str(tmp_path / "a.txt"), "dev": str(tmp_path / "b.txt")})
    assert found == {"train": "a", "validation": "b"}
    with pytest.raises(UserError, match="no 'train'"):
        corpus.read({"test": str(tmp_path / "a.txt")})
    with pytest.raises(UserError, match="'dev' and 'validation'"):
        corpus.read({"train": "a", "dev": "b", "validation": "c"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", r"empty.txt is empty"),
        ("blank.txt", b" \n\n", r"blank.txt is empty"),
        ("latin.txt", b"one\ntwo\nna\xefve\n", r"latin.txt, line 3: not UTF-8 \(byte 0xef at offset 10\)"),
        ("wide.txt", "two\nlines".encode("utf-16-le"), r"wide.txt holds a zero byte \(byte 1, line 1\).*UTF-16"),
        ("cut.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-9], r"cut.txt.gz cannot be read"),
        ("not.txt.gz", b"plain text", r"not.txt.gz cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        corpus.read(str(tmp_path / name))


def test_a_place_without_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file or folder .*missing\.txt"):
        corpus.read(str(tmp_path / "missing.txt"))
    with pytest.raises(UserError, match=r"holds no \.txt or \.txt\.gz"):
        corpus.read(str(tmp_path))


def test_no_network_is_one_sentence_at_once(offline: Callable[[], float]) -> None:
    with pytest.raises(UserError) as caught:
        corpus.read("hub:someone/something/else")
    assert offline() < hf.PATIENCE + 2
    assert "hub:someone/something/else" in str(caught.value)
    assert "cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_that_never_answers_does_not_hold_us_up(
    monkeypatch: pytest.MonkeyPatch, offline: Callable[[], float]
) -> None:
    import threading

    import huggingface_hub

    done = threading.Event()

    class Silent:
        def head(self, *_: Any, **__: Any) -> None:
            done.wait(30)

    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    monkeypatch.setattr(hf, "PATIENCE", 0.1)
    with pytest.raises(UserError, match="cannot be reached"):
        corpus.read("hub:someone/something")
    assert offline() < 5
    done.set()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A hub that answers with a given data set, or raises a given error."""

    def answer(found: Any) -> None:
        def load_dataset(name: str, config: str | None) -> Any:
            assert (name, config) == ("owner/name", "config")
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hf, "_answers", lambda _address: True)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return answer


def rows(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def test_a_data_set_of_the_hub(online: Callable[[Any], None]) -> None:
    online(datasets.DatasetDict(train=rows(text=["a", "", "b\n"], id=["x", "y", "z"]), test=rows(text=["c"], id=["w"])))
    assert corpus.read("hub:owner/name/config") == {"train": "a\nb\n", "test": "c\n"}
    online(datasets.DatasetDict(everything=rows(story=["a"], stars=[1])))
    assert corpus.read("hub:owner/name/config") == {"all": "a\n"}


def test_a_data_set_that_cannot_be_used_says_why(online: Callable[[Any], None]) -> None:
    online(datasets.DatasetDict(train=rows(first=["a"], second=["b"])))
    with pytest.raises(UserError, match=r"neither a column 'text'.*first, second"):
        corpus.read("hub:owner/name/config")
    online(datasets.DatasetDict(one=rows(text=["a"]), two=rows(text=["b"])))
    with pytest.raises(UserError, match="no split 'train', it has one, two"):
        corpus.read("hub:owner/name/config")
    online(ValueError("BuilderConfig 'config' not found. Available: ['plain']"))
    with pytest.raises(UserError, match=r"hub:owner/name/config cannot be loaded: .*Available: \['plain'\]"):
        corpus.read("hub:owner/name/config")


def test_cut_by_characters_in_order() -> None:
    text = "".join(map(chr, range(100, 200)))
    parts = corpus.cut({"all": text}, (0.9, 0.05, 0.05))
    assert {name: len(part) for name, part in parts.items()} == {"train": 90, "validation": 5, "test": 5}
    assert "".join(parts.values()) == text
    parts = corpus.cut({"all": text}, (0.9, 0.0, 0.1))
    assert {name: len(part) for name, part in parts.items()} == {"train": 90, "test": 10}


def test_cut_takes_parts_as_they_are_and_only_missing_ones_from_the_end() -> None:
    whole = {"train": "a" * 90 + "b" * 10, "validation": "v", "test": "t"}
    assert corpus.cut(whole, (0.9, 0.05, 0.05)) == whole
    without = {"train": "a" * 90 + "b" * 10, "test": "t"}
    assert corpus.cut(without, (0.9, 0.1, 0.0)) == {"train": "a" * 90, "validation": "b" * 10, "test": "t"}
    assert corpus.cut(without, (1.0, 0.0, 0.0)) == without


def test_the_fingerprint_tells_texts_apart() -> None:
    first, second = (corpus.fingerprint({"train": text})["train"] for text in ("naïve", "naive"))
    assert first["characters"] == second["characters"] == 5
    assert first["sha256"] != second["sha256"]


def test_read_file_takes_any_name(tmp_path: Path) -> None:
    (tmp_path / "book").write_text("text")
    assert text_files.read(tmp_path / "book") == {"all": "text"}
