"""Pairs of texts for next-sentence prediction: the second follows the first, or does not."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from sj_lang_language.data.text.masked import Frame, Item

NEXT, ELSEWHERE = 0, 1  # transformers' next_sentence_label

Pair = tuple[Tensor, Tensor, int]


def documents(text: str) -> list[str]:
    """The parts of a text between blank lines."""
    return [part for part in re.split(r"\n[^\S\n]*\n\s*", text.replace("\r\n", "\n")) if part.strip()]


def pairs(texts: Iterable[Tensor], others: Sequence[Tensor], room: int, draw: random.Random) -> Iterator[Pair]:
    """Pairs (a, b, label) of at most `room` tokens together, out of tokenized documents.

    As in BERT a and b are spans, not sentences: the next `room` tokens of a document, or what is
    left of it, are cut at a random place; in half of the cases b is replaced by a span of one of
    `others`, which may grow meanwhile, and the document goes on where a ends. Such a span is as
    long as the one that it replaces if it can be (ours: the length should not tell the label).
    """
    for text in texts:
        start = 0
        while len(text) - start >= 2:
            end = min(start + room, len(text))
            middle = draw.randint(start + 1, end - 1)
            other = _another(text, others, draw) if draw.random() < 0.5 else None
            if other is None:
                yield text[start:middle], text[middle:end], NEXT
                start = end
                continue
            size = end - middle
            begin = draw.randint(0, max(0, len(other) - size))
            yield text[start:middle], other[begin : begin + size], ELSEWHERE
            start = middle


def _another(text: Tensor, others: Sequence[Tensor], draw: random.Random) -> Tensor | None:
    for _ in range(8):  # with few documents, the same one may be drawn repeatedly
        if others and (other := others[draw.randrange(len(others))]) is not text and len(other):
            return other
    return None


class Pairs:
    """Pairs as items of a data set."""

    def __init__(self, pairs: Sequence[Pair], frame: Frame) -> None:
        self.pairs, self.frame = pairs, frame

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        return self.frame.pair(*self.pairs[index])
