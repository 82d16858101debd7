"""From tables to labelled sentences and pairs: labels checked, parts cut off, repetitions found."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sj_lang.errors import UserError, choices
from sj_lang_language.data.tables.table_files import DataTable

NumpyArray = NDArray[Any]

CUT_SEED = 0  # parts that are cut are the same for every seed of a run
SMALLER = "expected a share below 1, or a smaller number"


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Labels that are names. aliases: other ways to write them, e.g. {"0": 0}."""

    names: tuple[str, ...]
    aliases: dict[str, int]

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Names in their order: by number if all are whole numbers, else by letters."""
        distinct = set(names)
        numbers = all(re.fullmatch(r"-?\d{1,18}", name) for name in distinct)
        ordered = tuple(sorted(distinct, key=(lambda name: (int(name), name)) if numbers else None))
        return cls(names=ordered, aliases={})

    def encode(self, table: DataTable, values: Sequence[Any], key: str) -> NumpyArray:
        """Class numbers, int64. UserError, with the line, for an unknown label."""
        places = {**self.aliases, **{name: index for index, name in enumerate(self.names)}}
        texts = [written(value) for value in values]
        for row, text in enumerate(texts):
            if text not in places:
                hint = choices(text, self.names)
                problem = f"label '{text}'" if text else "no label"
                raise UserError(
                    f"{key}: {table.where(row)}: {problem}; expected one of the {len(self.names)} labels; {hint}"
                )
        return np.array([places[text] for text in texts], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Labels that are numbers between two limits."""

    low: float
    high: float

    def encode(self, table: DataTable, values: Sequence[Any], key: str) -> NumpyArray:
        """Scores, float32. UserError, with the line, for any other value."""
        scores = []
        for row, value in enumerate(values):
            try:
                score = float(value)
            except (TypeError, ValueError):
                score = math.nan
            if not self.low <= score <= self.high:
                raise UserError(
                    f"{key}: {table.where(row)}: score {value!r}; expected a number from {self.low:g} to {self.high:g}"
                )
            scores.append(score)
        return np.array(scores, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Sentences (`second` None) or pairs, `[N]` each. labels: class numbers, scores, or None."""

    first: list[str]
    second: list[str] | None
    labels: NumpyArray | None
    places: list[str]

    def __len__(self) -> int:
        return len(self.first)

    def pairs(self) -> list[tuple[str, str]]:
        """What makes two examples the same: their texts, without white space at the ends."""
        second = self.second or [""] * len(self.first)
        return [(a.strip(), b.strip()) for a, b in zip(self.first, second, strict=True)]

    def take(self, rows: Iterable[int]) -> Self:
        rows = list(rows)
        return replace(
            self,
            first=[self.first[row] for row in rows],
            second=None if self.second is None else [self.second[row] for row in rows],
            labels=None if self.labels is None else self.labels[rows],
            places=[self.places[row] for row in rows],
        )

    def texts(self) -> Iterable[str]:
        """All texts, for a tokenizer to train on."""
        yield from self.first
        yield from self.second or []

    def empty(self) -> list[int]:
        """The rows in which a text is empty or only white space."""
        both = zip(self.first, self.second or self.first, strict=True)
        return [row for row, (a, b) in enumerate(both) if not (a.strip() and b.strip())]

    def fingerprint(self) -> dict[str, Any]:
        """Number of rows, and SHA-256 of all texts and labels."""
        digest = hashlib.sha256()
        labels = [None] * len(self) if self.labels is None else self.labels.tolist()
        for a, b, label in zip(self.first, self.second or self.first, labels, strict=True):
            digest.update(repr((a, b, label)).encode("utf-8", "surrogatepass"))
        return {"rows": len(self), "sha256": digest.hexdigest()}


def of_table(
    table: DataTable, text: Sequence[str], label: str | None, kind: Classes | Scores, *, keys: tuple[str, str]
) -> Examples:
    """The examples of a table. label: its column, or None. keys: of text and label in a recipe."""
    columns = [_texts(table, name, keys[0]) for name in text]
    return Examples(
        first=columns[0],
        second=columns[1] if len(columns) > 1 else None,
        labels=None if label is None else kind.encode(table, table.column(label, keys[1]), keys[1]),
        places=[table.where(row) for row in range(len(table))],
    )


def has_labels(table: DataTable, label: str) -> bool:
    """Whether there is such a column, with a value that is a label: not "", null or -1."""
    return any(written(value) not in ("", "-1") for value in table.columns.get(label, []))


def written(value: Any) -> str:
    """A label as text: 1, 1.0, "1", "1.0" and b"1" are the same one."""
    if _missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text.strip())


def cut(examples: Examples, share: float, *, classes: bool, key: str = "task.validation") -> tuple[Examples, Examples]:
    """Split off a random part: (the rest, the part), each in the original order.

    share: of the examples if below 1, else their number. Equal texts never stand in both. classes:
    the labels of the part are in the proportion of the whole, up to one each. key: where a recipe
    sets share, for messages.
    """
    count = len(examples)
    size = share if share >= 1 else share * count
    if not 0 < size < count:
        raise UserError(f"{key}: cannot cut {share:g} off {count} examples; {SMALLER}")
    groups: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(examples.pairs()):
        groups.setdefault(pair, []).append(row)
    labels = examples.labels if classes and examples.labels is not None else np.zeros(count, dtype=np.int64)
    room = room_for(labels, size)
    order = list(groups.values())
    taken: list[int] = []
    for index in np.random.default_rng(CUT_SEED).permutation(len(order)):
        group = order[index]
        if room[labels[group[0]]] >= len(group):
            room[labels[group[0]]] -= len(group)
            taken += group
    if not taken or len(taken) == count:
        raise UserError(f"{key}: cannot cut {share:g} off {count} examples ({len(order)} different ones)")
    chosen = set(taken)
    return examples.take(row for row in range(count) if row not in chosen), examples.take(sorted(chosen))


def room_for(labels: NumpyArray, size: float) -> dict[Any, int]:
    """How many examples of each label a part of `size` examples has: its share, rounded.

    If rounding leaves places open, the most frequent labels among those rounded down to none get
    one each, except labels that occur only once.
    """
    names, counts = np.unique(labels, return_counts=True)
    often = dict(zip(names.tolist(), counts.tolist(), strict=True))
    room = {name: round(size * n / len(labels)) for name, n in often.items()}
    rare = sorted((name for name in often if not room[name]), key=often.__getitem__, reverse=True)
    for name in rare[: max(0, math.floor(size + 0.5) - sum(room.values()))]:
        room[name] = int(often[name] > 1)
    return room


def repeated(examples: Examples, train: Examples) -> NumpyArray:
    """True for each of the examples whose texts also occur in train, bool `[N]`."""
    pairs_of_train = set(train.pairs())
    return np.array([pair in pairs_of_train for pair in examples.pairs()], dtype=bool)


def _texts(table: DataTable, name: str, key: str) -> list[str]:
    """A column as texts, "" for a missing one. UserError for what is neither text nor number."""
    texts = []
    for row, value in enumerate(table.column(name, key)):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{key}: {table.where(row)}: bytes of '{name}' that are not UTF-8: {error}") from error
        if isinstance(value, (list, tuple, dict)):
            raise UserError(f"{key}: {table.where(row)}: '{name}' is a {type(value).__name__}; expected a text")
        texts.append("" if _missing(value) else str(value))
    return texts


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
