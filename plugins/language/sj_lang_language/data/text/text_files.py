"""Local text: .txt and .txt.gz, a file or a folder of them."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sj_lang.errors import UserError

SUFFIXES = (".txt", ".txt.gz")
LONGEST = 1 << 20  # characters of a row of a stream, if no blank line ends it
RATIO = 100  # between a text and its .gz, at most
SMALL = 1 << 26  # bytes that may be packed in any ratio
NO_TEXT = "it is not text, or it is UTF-16; expected UTF-8 text"
PARTS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def read(place: Path) -> dict[str, str]:
    """The text of a file, `{"all": text}`, or of a folder.

    A folder that holds `train.txt` counts as cut already: `train`, `validation` (or `valid`,
    `dev`) and `test`, each .txt or .txt.gz. All .txt and .txt.gz files of any other folder, at any
    depth, are joined in the order of their paths. A byte order mark is dropped. Raises UserError,
    naming file and line, for what is missing, empty, not UTF-8 or no text.
    """
    files = _files(place)
    if place.is_file():
        return {"all": read_file(place)}
    named = {path: PARTS.get(path.name.lower().split(".")[0]) for path in files if path.parent == place}
    if "train" in named.values():
        parts: dict[str, str] = {}
        for path, part in named.items():
            if part in parts:
                raise UserError(f"task.data: {place} holds two files for '{part}', one of them {path.name}")
            if part is not None:
                parts[part] = read_file(path)
        return parts
    texts = [read_file(path) for path in files]
    return {"all": "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)}


def stream(place: Path) -> Any:
    """The paragraphs of a file, or of all files of a folder, as streamed rows with a `text`."""
    import datasets

    files = [str(path) for path in _files(place)]
    return datasets.IterableDataset.from_generator(_paragraphs, gen_kwargs={"files": files})


def _paragraphs(files: list[str]) -> Iterator[dict[str, str]]:
    for path in files:
        try:
            yield from _paragraphs_of(path)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UserError(f"task.data: {path} cannot be read as UTF-8 text: {error}") from error


def _paragraphs_of(path: str) -> Iterator[dict[str, str]]:
    lines: list[str] = []
    size = 0
    with (gzip.open if path.lower().endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as file:
        for line in iter(lambda: file.readline(LONGEST), ""):
            if "\0" in line:
                raise UserError(f"task.data: {path} holds a zero byte: {NO_TEXT}")
            if line.strip():
                lines.append(line)
                size += len(line)
            if lines and (size > LONGEST or not line.strip()):
                yield {"text": "".join(lines)}
                lines, size = [], 0
    if lines:
        yield {"text": "".join(lines)}


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise UserError(f"task.data: no file or folder {place}")
    if place.is_file():
        return [place]
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    if not files:
        raise UserError(f"task.data: the folder {place} holds no .txt or .txt.gz file")
    return files


def _unpacked(path: Path, packed: int) -> bytes:
    """The content of a .gz. UserError for one that fills the memory, as no text does."""
    most = max(SMALL, RATIO * packed)
    with gzip.open(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(
            f"task.data: {path} unpacks to more than {most:,} bytes, {RATIO} times its size; to use it, unpack it"
        )
    return data


def read_file(path: Path) -> str:
    """One file as text."""
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = _unpacked(path, len(data))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"task.data: {path} cannot be read: {error}") from error
    if not data.strip():
        raise UserError(f"task.data: {path} is empty")
    nul = data.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"task.data: {path} holds a zero byte (byte {nul}, line {data.count(10, 0, nul) + 1}): {NO_TEXT}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"task.data: {path}, line {line}: not UTF-8 (byte {data[error.start]:#04x} at offset {error.start}); "
            "convert it, e.g. with iconv -t UTF-8"
        ) from error
