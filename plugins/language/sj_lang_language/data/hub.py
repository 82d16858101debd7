"""Text sets of the Hugging Face hub, through `datasets`."""

from typing import Any

from sj_lang.errors import UserError
from sj_lang.hf import data_sets
from sj_lang_language.data.tables import table_files
from sj_lang_language.data.text.text_files import PARTS


def read(place: str) -> dict[str, str]:
    """The texts of the splits `train`, `validation`, `test`, or `{"all": text}` of a single split.

    place: "hub:owner/name[/config]". The text is the column `text`, or the only column of strings;
    each row ends with a line end. Raises UserError at once if there is neither a network nor a copy
    in the local cache.
    """
    loaded = load(place)
    splits = {PARTS[split]: loaded[split] for split in loaded if split in PARTS}
    if "train" not in splits:
        if len(loaded) != 1:
            raise UserError(f"task.data: {place} has no split 'train', it has {', '.join(map(str, loaded))}")
        splits = {"all": next(iter(loaded.values()))}
    return {part: _text(rows, place) for part, rows in splits.items()}


def stream(place: str) -> tuple[Any, str, int | None]:
    """The streamed rows of `train`, the name of their text column, and their bytes if known."""
    loaded = load(place, streaming=True)
    if "train" not in loaded:
        raise UserError(f"task.data: {place} has no split 'train', it has {', '.join(map(str, loaded))}")
    rows = loaded["train"]
    first: dict[str, Any] = next(iter(rows), {})
    column = _column([name for name, value in first.items() if isinstance(value, str)], list(first), place)
    sizes = rows.info.splits or {}
    return rows, column, sizes["train"].num_bytes if "train" in sizes else None


def table(rows: Any, place: str) -> table_files.DataTable:
    """The rows of a split as a table; labels by their names, -1 as it is."""
    columns = rows.to_dict()
    for name, feature in rows.features.items():
        names = getattr(feature, "names", None)
        if names:
            columns[name] = [names[value] if value is not None and value >= 0 else value for value in columns[name]]
    return table_files.of_columns(columns, place)


def load(place: str, **options: Any) -> Any:
    """All splits of a data set, name -> rows. options: of `load_dataset`. Raises as `read` does."""
    return data_sets.load(place, instead="a file (task.data=PATH)", **options)


def _text(rows: Any, place: str) -> str:
    strings = [name for name, feature in rows.features.items() if getattr(feature, "dtype", "").endswith("string")]
    column = _column(strings, list(rows.features), place)
    return "".join(row if row.endswith("\n") or not row else f"{row}\n" for row in rows[column] if row is not None)


def _column(strings: list[str], columns: list[str], place: str) -> str:
    """`text`, or the only column of strings."""
    if "text" not in strings and len(strings) != 1:
        raise UserError(
            f"task.data: {place} has neither a column 'text' nor exactly one column of strings; "
            f"its columns: {table_files.listed(columns)}"
        )
    return "text" if "text" in strings else strings[0]
