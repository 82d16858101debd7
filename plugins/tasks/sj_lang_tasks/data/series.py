"""Tables of series over time, as ETT's CSV files: a column `date`, and a column for each series."""

import csv
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sj_lang import build, plugins
from sj_lang.errors import UserError


@dataclass(kw_only=True)
class SeriesTable:
    """values: `[steps, series]`. names: of the series. step: time between two rows."""

    values: NDArray[np.float64]
    names: list[str]
    step: timedelta
    sha256: str


def of(data: str) -> SeriesTable:
    """The table of `task.data`: a registered source with `series()`, or a CSV."""
    if data not in [source.name for source in plugins.all("source")]:
        return read(Path(data).expanduser())
    source = build.part("source", data)()
    if not hasattr(source, "series"):
        raise UserError(f"task.data: the source '{data}' has no series")
    table: SeriesTable = source.series()
    return table


def read(path: Path) -> SeriesTable:
    """A CSV whose dates grow by the same step from row to row. UserError names the line if not."""
    try:
        content = path.read_bytes()
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"task.data: {path} cannot be read: {error}") from error
    header = rows[0] if rows else []
    if len(header) < 2 or header[0] != "date":
        raise UserError(f"task.data: {path}: the first line is {header}; expected date, then the names of the series")
    body = [row for row in rows[1:] if row]
    if len(body) < 3:
        raise UserError(f"task.data: {path} has {len(body)} rows; expected at least 3")
    values = np.array([_numbers(path, line, row, header) for line, row in enumerate(body, 2)])
    step = _step(path, [_date(path, line, row[0]) for line, row in enumerate(body, 2)])
    return SeriesTable(values=values, names=header[1:], step=step, sha256=hashlib.sha256(content).hexdigest())


def _numbers(path: Path, line: int, row: list[str], header: list[str]) -> list[float]:
    if len(row) != len(header):
        raise UserError(f"task.data: {path}, line {line}: {len(row)} fields, the header has {len(header)}")
    numbers = []
    for name, text in zip(header[1:], row[1:], strict=True):
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            what = f"'{text}' is no finite number" if text.strip() else "no value"
            raise UserError(f"task.data: {path}, line {line}, column {name}: {what}; fill gaps before you train")
        numbers.append(number)
    return numbers


def _date(path: Path, line: int, text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError as error:
        wrong = f"task.data: {path}, line {line}: '{text}' is not a date such as 2016-07-01 00:00:00"
        raise UserError(wrong) from error
    return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date


def _step(path: Path, dates: list[datetime]) -> timedelta:
    step = dates[1] - dates[0]
    for line, (before, date) in enumerate(pairwise(dates), 3):
        if date <= before:
            raise UserError(f"task.data: {path}, line {line}: {date} is not after {before}; sort the rows by date")
        if date - before != step:
            raise UserError(
                f"task.data: {path}, line {line}: {date} comes {date - before} after the row before, the others "
                f"{step}; fill the gap"
            )
    return step
