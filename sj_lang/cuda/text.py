"""The text of a `.cu` file as a compiler gets it, and the macros that choose its variant."""

from __future__ import annotations

import re
from pathlib import Path

import torch

#: the macros of a variant, in the order of their names: they are hashed in each launch
Macros = tuple[tuple[str, int], ...]

#: the macro IO of a kernel
IO = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
#: -ftz: subnormal float is 0; CuPy adds it, so that other compilers and the emulator must see it
OPTIONS = ("-std=c++17", "--restrict", "-ftz=true")
INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def source(path: Path) -> str:
    """The text of a `.cu` file with the files that it includes in their place, each once."""
    return _inline(path, set())


def _inline(path: Path, seen: set[Path]) -> str:
    def replace(match: re.Match[str]) -> str:
        other = (path.parent / match[1]).resolve()
        if other in seen:
            return ""
        seen.add(other)
        return _inline(other, seen)

    return INCLUDE.sub(replace, path.read_text(encoding="utf-8"))


def macros_of(**values: int) -> Macros:
    """The macros of a variant, as `launch` takes them. Make them once, not for each launch."""
    return tuple(sorted(values.items()))
