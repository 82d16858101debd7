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
    """Where a value was written: file, line and column (from 1), or the words of a command line.

    inside: the section that holds it in the file, if it acts on another one (`runs.<name>`).
    """

    file: str
    line: int = 0
    column: int = 0
    inside: Keys = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


Places = Mapping[Keys, Place]


@dataclass(frozen=True)
class Problem:
    """A mistake in a recipe. keys: path of the key. kind: "plugin" is a mistake of a plugin's."""

    keys: Keys
    message: str
    kind: Literal["value", "unknown", "missing", "plugin"] = "value"
    place: Place | None = None

    def at(self, marks: Places) -> Problem:
        """This problem with its place: that of the key, or of the nearest section around it."""
        if self.place:
            return self
        for length in range(len(self.keys), -1, -1):
            if self.keys[:length] in marks:
                return replace(self, place=marks[self.keys[:length]])
        return self

    def under(self, *keys: str | int) -> Problem:
        """This problem with `keys` in front of its own keys."""
        return replace(self, keys=(*keys, *self.keys))

    def __str__(self) -> str:
        name = dotted((*(self.place.inside if self.place else ()), *self.keys))
        text = f"{name}: {self.message}" if name else self.message
        return f"{self.place}  {text}" if self.place else text


def dotted(keys: Keys) -> str:
    """("train", "learning_rate") -> "train.learning_rate"."""
    return ".".join(str(key) for key in keys)


def unknown(keys: Keys, valid: Iterable[str], home: str = "") -> Problem:
    """A key that is not valid. home: where the valid keys are described, if they are many."""
    key = str(keys[-1])
    hint = choices(key, sorted(valid), limit=12) or home
    if "." in key:
        hint = "in a file, sections are nested; keys with dots are for `runs` and the command line"
    return Problem(keys, f"unknown key; {hint}".rstrip("; "), "unknown")


def missing(keys: Keys, expected: str = "") -> Problem:
    """A key that must be there and is not."""
    return Problem(keys, f"missing; expected {expected}" if expected else "missing", "missing")


def merge_misspelt(problems: list[Problem]) -> list[Problem]:
    """Make one problem of a missing key and its likely misspelling beside it."""
    kept = [problem for problem in problems if problem.kind != "missing"]
    for lost in [problem for problem in problems if problem.kind == "missing"]:
        name = str(lost.keys[-1])
        beside = [p for p in kept if p.kind == "unknown" and p.keys[:-1] == lost.keys[:-1]]
        like = nearest(name, [str(wrong.keys[-1]) for wrong in beside], count=1)
        if not like:
            kept.append(lost)
        for wrong in beside:
            if str(wrong.keys[-1]) in like:
                kept[kept.index(wrong)] = replace(
                    wrong, message=f"unknown key; did you mean '{name}', which is missing?"
                )
    return kept


def report(problems: Iterable[Problem], what: str) -> UserError | PluginError:
    """One error that lists all problems, sorted by place, without repetitions."""
    ranked = sorted({(_rank(problem.place), str(problem)) for problem in problems})
    texts = [text for _, text in ranked]
    plugin = any(problem.kind == "plugin" for problem in problems)
    message = texts[0] if len(texts) == 1 else "\n  ".join([f"{len(texts)} problems in {what}", *texts])
    return (PluginError if plugin else UserError)(message)


def _rank(place: Place | None) -> tuple[int, Place]:
    if place is None:
        return 0, Place("")
    return (1 if place.line else 2 if place.file.startswith("command line") else 0), place


def shown(path: Path) -> str:
    """A path as the user would write it: relative to the working directory if it is below."""
    absolute, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(absolute, here) if absolute.startswith(here + os.sep) else str(path)
