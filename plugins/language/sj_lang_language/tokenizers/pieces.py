"""Texts as tokenizers train on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 500  # characters
_LONG = re.compile(rf"\S{{{LONGEST}}}|\s{{{LONGEST}}}")


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut inside words and blanks longer than `LONGEST`: training takes time that grows
    with the square of the longest word, and a word such as an encoded image teaches nothing."""
    for text in texts:
        start = 0
        for long in _LONG.finditer(text):
            yield text[start : long.end()]
            start = long.end()
        yield text[start:]
