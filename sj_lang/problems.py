"""What is wrong with a recipe: collected, placed in its file, and printed all at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sj_lang.errors import PluginError, UserError, choices, nearest

Keys = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Place:
    """Where a value was written: file, line and column (from 1), or the text of a command line override."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


Marks = Mapping[Keys, Place]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. keys: path of the key; kind "plugin" is a plugin's failure, not the user's mistake."""

    keys: Keys
    message: str
    kind: Literal["value", "unknown", "missing", "plugin"] = "value"
    place: Place | None = None

    def at(self, marks: Marks) -> Problem:
        """The same with its place: that of the key, or of the nearest section around it."""
        if self.place:
            return self
        for length in range(len(self.keys), -1, -1):
            if self.keys[:length] in marks:
                return replace(self, place=marks[self.keys[:length]])
        return self

    def under(self, *keys: str | int) -> Problem:
        """The same, its keys below `keys`."""
        return replace(self, keys=(*keys, *self.keys))

    def __str__(self) -> str:
        name = dotted(self.keys)
        return "  ".join(
            part for part in (str(self.place or ""), f"{name}: {self.message}" if name else self.message) if part
        )


def dotted(keys: Keys) -> str:
    """("train", "learning_rate") -> "train.learning_rate"."""
    return ".".join(str(key) for key in keys)


def unknown(keys: Keys, valid: Iterable[str]) -> Problem:
    """A key that is none of the valid ones."""
    return Problem(keys, f"unknown key; {choices(str(keys[-1]), sorted(valid), limit=12)}".rstrip("; "), "unknown")


def missing(keys: Keys, expected: str = "") -> Problem:
    """A key that must be there and is not."""
    return Problem(keys, f"missing; expected {expected}" if expected else "missing", "missing")


def merge_misspelt(problems: list[Problem]) -> list[Problem]:
    """Tell of a missing key once, where an unknown key beside it looks like its misspelling."""
    kept = list(problems)
    for lost in [problem for problem in problems if problem.kind == "missing"]:
        for index, wrong in enumerate(kept):
            beside = wrong.kind == "unknown" and wrong.keys[:-1] == lost.keys[:-1]
            if beside and nearest(str(wrong.keys[-1]), [str(lost.keys[-1])]):
                kept[index] = Problem(wrong.keys, f"unknown key; did you mean '{lost.keys[-1]}', which is missing?")
                kept.remove(lost)
                break
    return kept


def report(problems: Iterable[Problem], what: str) -> UserError | PluginError:
    """One error for all problems, sorted by place, each told once."""
    lines = sorted({(p.place is not None, p.place or Place(""), str(p)) for p in problems})
    texts = [text for _, _, text in lines]
    plugin = any(problem.kind == "plugin" for problem in problems)
    message = texts[0] if len(texts) == 1 else "\n  ".join([f"{len(texts)} problems in {what}", *texts])
    return (PluginError if plugin else UserError)(message)


def shown(path: Path) -> str:
    """A path as the user would write it: relative to the working directory if it is below."""
    absolute, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(absolute, here) if absolute.startswith(here + os.sep) else str(path)
