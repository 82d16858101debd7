"""Text too large for memory: read, tokenized, cut and masked on the fly."""

import hashlib
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
from sj_lang.hf import HUB
from sj_lang_language.data import hub
from sj_lang_language.data.text import text_files
from sj_lang_language.data.text.masked import Frame, Item, Masking
from sj_lang_language.data.text.pairs import pairs

BATCH = 64  # rows that are tokenized at a time
SHUFFLED = 10_000  # windows of a source from which the next one is drawn
POOL = 256  # documents from which the other half of a pair may come


@dataclass(frozen=True)
class Source:
    """Rows of text. weight: bytes, if known."""

    name: str
    rows: Any
    column: str
    weight: int | None = None

    def texts(self, without: frozenset[bytes] = frozenset(), seed: int | None = None) -> Iterator[str]:
        """The rows whose digest is not in `without`, in order. seed: of the order of the files."""
        rows = self.rows if seed is None else self.rows.shuffle(seed=seed, buffer_size=1)
        texts = (row[self.column] for row in rows if row[self.column])
        return (text for text in texts if digest(text) not in without) if without else texts


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def open_source(place: str) -> Source:
    """The split `train` of hub:owner/name[/config], or the paragraphs of a text file or folder."""
    if place.startswith(HUB):
        rows, column, size = hub.stream(place)
        return Source(place, rows, column, size)
    return Source(place, text_files.stream(Path(place).expanduser()), "text")


class Reader:
    """From rows to unmasked items. Rows too short for a window are joined with the next (ours)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: Frame, *, paired: bool) -> None:
        self.tokenizer, self.frame, self.paired = tokenizer, frame, paired

    def items(self, texts: Iterator[str], draw: random.Random, ahead: int = BATCH) -> Iterator[Item]:
        """ahead: rows that are read and tokenized at a time."""
        documents = self.documents(texts, ahead)
        if self.paired:
            pool: deque[Tensor] = deque(maxlen=POOL)
            for first, second, label in pairs(_kept(documents, pool), pool, self.frame.room, draw):
                yield self.frame.pair(first, second, label)
            return
        rest = torch.zeros(0, dtype=torch.long)
        for document in documents:
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


def _kept(documents: Iterator[Tensor], pool: deque[Tensor]) -> Iterator[Tensor]:
    for document in documents:
        pool.append(document)
        yield document


def hold_out(source: Source, reader: Reader, windows: int) -> tuple[list[Item], frozenset[bytes]]:
    """The first `windows` items of a source, and the digests of the rows that they were cut from.

    Their number would not do: with workers and shuffled files a source has no first rows.
    """
    used: set[bytes] = set()

    def noted() -> Iterator[str]:
        for text in source.texts():
            used.add(digest(text))
            yield text

    items = list(islice(reader.items(noted(), random.Random(0), ahead=1), windows))
    if len(items) < windows or next(source.texts(frozenset(used)), None) is None:
        raise UserError(
            f"task.data: {source.name} is too short: task.held_out asks for {windows} windows beside those to train "
            f"on, and the text has {len(items)} in all. Lower it, or leave task.streaming out"
        )
    return items, frozenset(used)


class MaskedStream(IterableDataset[dict[str, Any]]):
    """Masked windows without end, in an order that depends on the seed and the worker's number.

    The source of each window is drawn by size (with equal chances if a size is not known), and the
    window from `SHUFFLED` ones of that source. A source that ends begins again, with its files in
    another order; workers share its files. held: for each source, the digests of rows held out.
    """

    def __init__(
        self, sources: Sequence[Source], held: Sequence[frozenset[bytes]], reader: Reader, masking: Masking, seed: int
    ) -> None:
        self.sources, self.held, self.reader, self.masking, self.seed = sources, held, reader, masking, seed
        sizes = [source.weight for source in sources]
        self.weights = [weight or 1 for weight in sizes] if all(sizes) else [1] * len(sizes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        draw = random.Random(f"{self.seed} {number}")
        streams = [self._shuffled(place, random.Random(draw.random())) for place in range(len(self.sources))]
        weights = list(self.weights)
        for index in count():
            item = None
            while streams and item is None:
                (chosen,) = draw.choices(range(len(streams)), weights)
                item = next(streams[chosen], None)
                if item is None:
                    del streams[chosen], weights[chosen]  # this worker has none of its files
            if item is None:
                return
            yield self.masking(item, self.seed, number, index)

    def _shuffled(self, place: int, draw: random.Random) -> Iterator[Item]:
        items = self._endless(place, draw)
        kept = list(islice(items, SHUFFLED))
        for item in items:
            chosen = draw.randrange(len(kept))
            kept[chosen], item = item, kept[chosen]
            yield item

    def _endless(self, place: int, draw: random.Random) -> Iterator[Item]:
        while True:
            texts = self.sources[place].texts(self.held[place], seed=draw.getrandbits(31))
            items = self.reader.items(texts, draw)
            first = next(items, None)
            if first is None:
                return
            yield first
            yield from items
