"""From `task.data` to the texts that a language model trains on and is tested on."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sj_lang import build, plugins
from sj_lang.errors import UserError
from sj_lang.hf import HUB
from sj_lang_language.data import hub
from sj_lang_language.data.text import text_files

PARTS = ("train", "validation", "test")


def parts(data: str | Mapping[str, str] | Sequence[str], split: Sequence[float]) -> dict[str, str]:
    """The texts of `train`, `validation` and `test`: what `read` gives, cut by `cut`.

    Each text of a list is cut by itself. Equal parts are joined in the order of the list, with a
    blank line between them, so that each text is in each part.
    """
    if isinstance(data, str | Mapping):
        return cut(read(data), split)
    each = [cut(read(place), split) for place in data]
    pieces = {name: [texts[name] for texts in each if texts.get(name)] for name in PARTS}
    return {name: "\n\n".join(texts) for name, texts in pieces.items() if texts}


def read(data: str | Mapping[str, str]) -> dict[str, str]:
    """The texts of `task.data`: `{"all": text}`, or those of the parts that the data have.

    data: a registered source, `hub:owner/name[/config]`, a path, in this order; or a mapping from
    `train`, `validation` (or `dev`) and `test` to these.
    """
    if not isinstance(data, Mapping):
        return _read_one(data)
    if "dev" in data and "validation" in data:
        raise UserError("task.data: 'dev' and 'validation' are the same part of a language model's data: give only one")
    parts = {"validation" if name == "dev" else name: place for name, place in data.items()}
    if "train" not in parts:
        raise UserError(f"task.data: the mapping has no 'train', only {', '.join(data)}")
    return {name: _part(name, place) for name, place in parts.items()}


def _part(name: str, place: str) -> str:
    texts = _read_one(place)
    text = texts.get("all", texts.get(name))
    if text is None:
        raise UserError(f"task.data.{name}: {place} has no part '{name}', only {', '.join(texts)}")
    return text


def sources() -> list[str]:
    """The names of the registered sources."""
    return [source.name for source in plugins.all("source")]


def _read_one(place: str) -> dict[str, str]:
    if place in sources():
        return dict(build.part("source", place)().texts())
    if place.startswith(HUB):
        return hub.read(place)
    return text_files.read(Path(place).expanduser())


def cut(texts: Mapping[str, str], split: Sequence[float]) -> dict[str, str]:
    """Cut what is not cut yet into `train`, `validation` and `test`; a share of 0 leaves one out.

    A part that the data have is used as it is. A missing one is cut from the end of the text,
    validation before test. So a whole text falls into train, validation and test at the characters
    floor(n s_train) and floor(n (s_train + s_validation)).
    """
    text = texts["all"] if "all" in texts else texts["train"]
    parts = {name: value for name, value in texts.items() if name in PARTS[1:]}
    ends = {name: 0.0 if name in parts else share for name, share in zip(PARTS[1:], split[1:], strict=True)}
    first = int(len(text) * (1 - ends["validation"] - ends["test"]) + 1e-6)
    second = int(len(text) * (1 - ends["test"]) + 1e-6)
    pieces = {"train": text[:first], "validation": text[first:second], "test": text[second:]} | parts
    return {name: pieces[name] for name in PARTS if name in parts or name == "train" or ends.get(name)}


def fingerprint(parts: Mapping[str, str]) -> dict[str, Any]:
    """Characters and SHA-256 (of the UTF-8 bytes) of each part."""
    return {
        name: {"characters": len(text), "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}
        for name, text in parts.items()
    }
