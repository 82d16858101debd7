"""Validation for a train set that holds phrases of its sentences beside them, as SST-2's does.

Cut at random, nine phrases of ten would have the sentence around them, or a part of it, in train:
such a validation part says nothing about new sentences. So whole sentences are cut, and with them
what occurs in no other sentence.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from sj_lang.errors import UserError
from sj_lang_language.data.tables.examples import CUT_SEED, SMALLER, Examples, room_for


def cut(examples: Examples, share: float) -> tuple[Examples, Examples, int]:
    """(train, validation, how many examples are in neither), in the original order.

    A sentence is an example that is not part of a longer one. share: of the sentences if below 1,
    else their number. Validation holds only sentences, drawn in the proportion of the labels; train
    holds what is part of the other sentences. So a phrase that both share stays in train, as it
    does for a new sentence.
    """
    words = [tuple(text.split()) for text in examples.first]
    sentences = _sentences(words)
    size = share if share >= 1 else share * len(sentences)
    if not 0 < size < len(sentences):
        whole = f"{len(sentences)} sentences ({len(examples)} examples)"
        raise UserError(f"task.validation: cannot cut {share:g} off {whole}; {SMALLER}")
    labels = np.zeros(len(examples)) if examples.labels is None else examples.labels
    drawn = set(_draw([(one, labels[row]) for one, row in sentences.items()], size))
    left = {phrase for one in sentences if one not in drawn for phrase in _phrases(one)}
    train = [row for row, one in enumerate(words) if one in left]
    validation = [row for row, one in enumerate(words) if one in drawn]
    return examples.take(train), examples.take(validation), len(words) - len(train) - len(validation)


def _sentences(words: list[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """The examples that are not part of a longer one, each with its first row."""
    seen: set[tuple[str, ...]] = set()
    first_rows = {}
    for row in sorted(range(len(words)), key=lambda row: -len(words[row])):
        if words[row] not in seen:
            first_rows[words[row]] = row
            seen.update(_phrases(words[row]))
    return first_rows


def _phrases(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All parts of a sentence, including itself."""
    yield words
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield words[start:end]


def _draw(sentences: list[tuple[tuple[str, ...], Any]], size: float) -> Iterator[tuple[str, ...]]:
    """Random sentences, the same for every seed, the labels in proportion, up to one each."""
    room = room_for(np.array([label for _, label in sentences]), size)
    for index in np.random.default_rng(CUT_SEED).permutation(len(sentences)):
        one, label = sentences[index]
        if room[label]:
            room[label] -= 1
            yield one
