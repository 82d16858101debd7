"""Text that is too large to be held: read, tokenized, cut and masked on the way."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang_language.data import hub, text_files
from sj_lang_language.data.corpus import HUB
from sj_lang_language.data.masked import Frame, Item, Masking
from sj_lang_language.data.pairs import pairs

BATCH = 64  # rows that are tokenized at a time
SHUFFLED = 10_000  # rows among which each next one is drawn
POOL = 256  # documents from which the other half of a pair may come


@dataclass(frozen=True)
class Source:
    """Rows of text. weight: bytes, if known."""

    name: str
    rows: Any
    column: str
    weight: int | None = None

    def texts(self, skip: int = 0, seed: int | None = None) -> Iterator[str]:
        """The rows after the first `skip`, shuffled if there is a seed."""
        rows = self.rows.skip(skip) if skip else self.rows
        rows = rows if seed is None else rows.shuffle(seed=seed, buffer_size=SHUFFLED)
        return (row[self.column] for row in rows if row[self.column])


def open_source(place: str) -> Source:
    """place: `hub:owner/name[/config]`, whose split `train` is read, or a .txt or .txt.gz file or a folder of them,
    whose rows are the parts between blank lines."""
    if place.startswith(HUB):
        rows, column, size = hub.stream(place.removeprefix(HUB))
        return Source(place, rows, column, size)
    return Source(place, text_files.stream(Path(place).expanduser()), "text")


class Reader:
    """From rows to unmasked items. Rows are documents; those that fill no window alone are joined with the next ones
    (ours: some sets have a sentence a row)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: Frame, *, paired: bool) -> None:
        self.tokenizer, self.frame, self.paired = tokenizer, frame, paired

    def items(self, texts: Iterator[str], draw: random.Random, ahead: int = BATCH) -> Iterator[Item]:
        """ahead: rows that are read and tokenized at a time."""
        found = self.documents(texts, ahead)
        if self.paired:
            pool: deque[Tensor] = deque(maxlen=POOL)
            for first, second, label in pairs(_kept(found, pool), pool, self.frame.room, draw):
                yield self.frame.pair(first, second, label)
            return
        rest = torch.zeros(0, dtype=torch.long)
        for document in found:
            rest = torch.cat([rest, document])
            while len(rest) >= self.frame.room:
                yield self.frame.window(rest[: self.frame.room])
                rest = rest[self.frame.room :]

    def documents(self, texts: Iterator[str], ahead: int = BATCH) -> Iterator[Tensor]:
        joined: list[int] = []
        while batch := list(islice(texts, ahead)):
            rows = self.tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for ids in rows["input_ids"]:
                joined += ids
                if len(joined) >= self.frame.room:
                    yield torch.tensor(joined)
                    joined = []
        if joined:
            yield torch.tensor(joined)


def _kept(found: Iterator[Tensor], pool: deque[Tensor]) -> Iterator[Tensor]:
    for document in found:
        pool.append(document)
        yield document


def hold_out(source: Source, reader: Reader, windows: int) -> tuple[list[Item], int]:
    """The first `windows` items of a source, and how many of its rows they were cut from."""
    used = 0
    rows = iter(source.rows)

    def counted() -> Iterator[str]:
        nonlocal used
        for row in rows:
            used += 1
            if row[source.column]:
                yield row[source.column]

    items = list(islice(reader.items(counted(), random.Random(0), ahead=1), windows))
    if len(items) < windows or next(rows, None) is None:
        raise UserError(
            f"task.data: {source.name} is too short: task.held_out asks for {windows} windows beside those to train "
            f"on, and the text has {len(items)} in all. Lower it, or leave task.streaming out"
        )
    return items, used


class MaskedStream(IterableDataset[dict[str, Any]]):
    """Masked windows without end. Each next window is from a source drawn by its size (by equal chances if a size is
    not known); a source that ends begins again, in another order.

    The order depends on the seed and the number of the worker alone. With several workers `datasets` deals out a
    source's files.
    """

    def __init__(
        self, sources: Sequence[Source], skips: Sequence[int], reader: Reader, masking: Masking, seed: int
    ) -> None:
        self.sources, self.skips, self.reader, self.masking, self.seed = sources, skips, reader, masking, seed
        known = [source.weight for source in sources]
        self.weights = [weight or 1 for weight in known] if all(known) else [1] * len(known)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        draw = random.Random(f"{self.seed} {number}")
        streams = [self._endless(place, random.Random(draw.random())) for place in range(len(self.sources))]
        weights = list(self.weights)
        for index in count():
            while streams:
                (chosen,) = draw.choices(range(len(streams)), weights)
                item = next(streams[chosen], None)
                if item is not None:
                    yield self.masking(item, self.seed, number, index)
                    break
                del streams[chosen], weights[chosen]  # this worker has no file of it
            else:
                return

    def _endless(self, place: int, draw: random.Random) -> Iterator[Item]:
        while True:
            texts = self.sources[place].texts(self.skips[place], seed=draw.getrandbits(31))
            items = self.reader.items(texts, draw)
            first = next(items, None)
            if first is None:
                return
            yield first
            yield from items
