"""Tables of examples: TSV, CSV, JSON lines and parquet, each row with its line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sj_lang.errors import UserError, choices
from sj_lang_language.data.text.text_files import read_file

TAB, COMMA = (".tsv", ".txt"), (".csv",)
JSON, PARQUET = (".jsonl", ".json"), (".parquet",)
SUFFIXES = (*TAB, *COMMA, *JSON, *PARQUET)
_HALF = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which is in JSON but not in UTF-8
_LONGEST = 1 << 27  # characters of a field; Python's own limit is 131,072


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """Columns of equal length.

    lines: the line of each row, counted from 1 (`unit` "row" if a file has no lines). malformed:
    the lines whose number of fields is not the header's; their rows are left out.
    """

    place: str
    columns: dict[str, list[Any]]
    lines: list[int]
    unit: str = "line"
    malformed: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str, key: str) -> list[Any]:
        """The values of a column. UserError if there is none. key: where a recipe names it."""
        if name not in self.columns:
            hint = choices(name, list(self.columns)) or f"its columns: {listed(list(self.columns))}"
            raise UserError(f"{key}: {self.place} has no column '{name}'; {hint}")
        return self.columns[name]

    def where(self, row: int) -> str:
        """How messages refer to a row."""
        return f"{self.place}, {self.unit} {self.lines[row]}"


def read(
    place: Path | str,
    *,
    columns: Sequence[str] | None = None,
    quotes: bool | None = None,
    skip_malformed: bool = False,
    option: str = "",
) -> DataTable:
    """Read a table. The suffix tells its form; .gz may follow that of a text.

    columns: the names of the columns of a file without a header line. quotes: whether a field may
    stand in double quotes, and then hold separators and line ends; None: in .csv only, as GLUE
    writes its files. skip_malformed: list rows with another number of fields than the header
    instead of refusing them. option: where a recipe sets quotes, for messages.

    Text is UTF-8, with or without a byte order mark; only LF or CRLF ends a line. Empty lines are
    not rows if there is more than one column. Raises UserError, naming file and line, for what is
    missing, has no rows, is not UTF-8 or not a table.
    """
    path = Path(place).expanduser()
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"task.data: {path} is not a table that can be read; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"task.data: no file {path}")
    if suffix in PARQUET:
        return read_parquet([path], str(path))
    text = read_file(path)
    if suffix in JSON:
        return _json(text, str(path))
    quoted = suffix in COMMA if quotes is None else quotes
    separator = "," if suffix in COMMA else "\t"
    rows = _quoted(text, separator, str(path)) if quoted else _plain(text, separator)
    table = _table(rows, columns, str(path))
    if table.malformed and not skip_malformed:
        raise UserError(
            f"task.data: {path}, line {table.malformed[0]}: expected {len(table.columns)} fields "
            f"({listed(list(table.columns))}){', as in the header' if columns is None else ''}; "
            f"{len(table.malformed):,} lines have a different number. "
            f"Quotes around fields are {'read' if quoted else 'taken as text'}{option and f' ({option})'}"
        )
    if not table.lines and columns is None:
        raise UserError(f"task.data: {path}, line 2: expected a row after the header, found none")
    return _filled(table)


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names in order, long ones cut."""
    cut = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:limit]]
    return ", ".join(cut) + (" ..." if len(names) > limit else "")


def of_columns(columns: dict[str, list[Any]], place: str) -> DataTable:
    """A table from columns in memory."""
    count = len(next(iter(columns.values()), []))
    return _filled(DataTable(place=place, columns=columns, lines=list(range(1, count + 1)), unit="row"))


def _filled(table: DataTable) -> DataTable:
    if not table.lines:
        raise UserError(f"task.data: {table.place} has no rows")
    return table


def _plain(text: str, separator: str) -> Iterable[tuple[int, list[str]]]:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        yield number, line.removesuffix("\r").split(separator)


def _quoted(text: str, separator: str, place: str) -> Iterable[tuple[int, list[str]]]:
    limit, line = csv.field_size_limit(_LONGEST), 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            yield line, row or [""]
            line = reader.line_num + 1
    except csv.Error as error:
        problem = "a double quote is never closed" if "end of data" in str(error) else error
        raise UserError(f"task.data: {place}, line {line}: {problem}") from error
    finally:
        csv.field_size_limit(limit)


def _table(rows: Iterable[tuple[int, list[str]]], columns: Sequence[str] | None, place: str) -> DataTable:
    rows = iter(rows)
    names = list(columns) if columns is not None else next(rows)[1]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"task.data: {place}: two columns are called '{twice[0]}'")
    kept: list[list[str]] = []
    lines: list[int] = []
    malformed: list[int] = []
    for number, row in rows:
        if len(row) != len(names):
            if row != [""]:
                malformed.append(number)
            continue
        kept.append(row)
        lines.append(number)
    values = {name: [row[index] for row in kept] for index, name in enumerate(names)}
    return DataTable(place=place, columns=values, lines=lines, malformed=malformed)


def _json(text: str, place: str) -> DataTable:
    listed = text.lstrip().startswith("[")
    unit, rows, number = "entry" if listed else "line", list[tuple[int, Any]](), 1
    try:
        if listed:
            rows = list(enumerate(json.loads(text), 1))
        else:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
    except json.JSONDecodeError as error:
        line_number = error.lineno if listed else number
        problem = f"not JSON ({error.msg}, column {error.colno})"
        raise UserError(f"task.data: {place}, line {line_number}: {problem}") from error
    except (ValueError, RecursionError) as error:  # too many digits, too deep a list
        line_shown = "" if listed else f", line {number}"
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"task.data: {place}{line_shown}: not JSON that can be read ({reason})") from error
    wrong = next((number for number, row in rows if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UserError(f"task.data: {place}, entry {wrong}: expected an object with a value for each column")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    for number, row in rows:
        texts = (one for one in (*row, *row.values()) if isinstance(one, str))
        if half := next(filter(None, map(_HALF.search, texts)), None):
            problem = f"\\u{ord(half[0]):04x} is half of a surrogate pair, not a character"
            raise UserError(f"task.data: {place}, {unit} {number}: {problem}")
    return _filled(DataTable(place=place, columns=columns, lines=[number for number, _ in rows], unit=unit))


def read_parquet(paths: Sequence[Path], place: str) -> DataTable:
    """Parquet files as one table."""
    import pyarrow
    import pyarrow.parquet

    try:
        parts = [pyarrow.parquet.read_table(path) for path in paths]
        whole = pyarrow.concat_tables(parts)
        columns = {name: whole.column(name).to_pylist() for name in whole.column_names}
    # OverflowError: a date of the year 38,000
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"task.data: {place} cannot be read: {str(error).partition(chr(10))[0]}") from error
    return of_columns(columns, place)
