"""Parts that are cut from the training data."""

from collections.abc import Mapping
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sj_lang.errors import UserError


def check_shares(*, test: float, **others: float) -> None:
    """Refuse options of `task:` that are negative or not finite, and a test part of 0."""
    for name, value in {"test": test, **others}.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"task.{name} is {value}; expected 0 or more")
    if test == 0:
        raise UserError("task.test is 0; expected a share of the images or a number of them")


class Choosable(Protocol):
    """Data of which rows can be chosen."""

    def __len__(self) -> int: ...

    def rows(self, chosen: NDArray[np.int64]) -> Self:
        """The rows with these numbers, in their order."""
        ...


Cuttable = TypeVar("Cuttable", bound=Choosable)


def parted(
    sets: Mapping[str, Cuttable], *, test: float, validation: float, what: str
) -> tuple[dict[str, Cuttable], list[str]]:
    """The parts `train`, `test` and `validation`, missing ones cut from train, and notes on that.

    sets: these parts, or `all`. what: the word for rows in notes and errors.
    """
    parts = dict(sets)
    train = parts.pop("all") if "all" in parts else parts.pop("train")
    missing = {
        name: share for name, share in (("test", test), ("validation", validation)) if share and name not in parts
    }
    rows = cut(len(train), missing, what)
    notes = [f"no {name}: {len(rows[name]):,} {what} are cut from train for it" for name in missing]
    return {**{name: train.rows(chosen) for name, chosen in rows.items()}, **parts}, notes


def cut(count: int, shares: Mapping[str, float], what: str) -> dict[str, NDArray[np.int64]]:
    """Numbers of `train` and of each part, at random and alike for every seed; of no item twice.

    count: the number of all items. shares: that of each part, in order; from 1 on a number of
    items. what: the word for them in the error.
    """
    shuffled = np.random.default_rng(0).permutation(count)
    parts = {}
    for name, share in shares.items():
        size = round(share * count) if share < 1 else int(share)
        if not 0 < size < len(shuffled):
            raise UserError(f"task.{name} is {share:g}, of {count:,} {what}; nothing is left to train on")
        parts[name], shuffled = shuffled[:size], shuffled[size:]
    return {"train": np.sort(shuffled), **parts}
