"""Files in the format of MNIST."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    """An idx file of unsigned bytes, compressed if its name ends with .gz."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_images(folder: Path, part: str, labels: list[int], size: tuple[int, ...] = (6, 5)) -> Path:
    """Images as bright as their label, and the labels, named as MNIST's; returns the folder."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(len(labels)).integers(0, 20, (len(labels), *size))
    bright = np.array(labels).reshape(-1, *[1] * len(size)) * 40
    rank = 1 + len(size)
    write_idx(folder / f"{part}-images-idx{rank}-ubyte.gz", (noise + bright).astype(np.uint8))
    write_idx(folder / f"{part}-labels-idx1-ubyte", np.array(labels, np.uint8))
    return folder
