"""Files in the format of MNIST, idx: images of 8 bits a pixel, and the labels beside them."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sj_lang.errors import UserError

#: the images of a part as `[N, H, W]` or `[N, H, W, C]`, 0 to 255, and their labels `[N]`
Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

_BYTES = 0x08  # what the third byte of a file says if its numbers are unsigned bytes
_PARTS = {"train": "train", "t10k": "test", "test": "test", "validation": "validation", "valid": "validation"}


def read_folder(folder: Path) -> dict[str, Labelled]:
    """The parts of a folder, by the first word of the names: train, validation, t10k or test; or
    `{"all": ...}` of a single pair of files. UserError for what cannot be read."""
    images = sorted(path for path in folder.iterdir() if "images" in path.name and "idx" in path.name)
    if not images:
        raise UserError(
            f"task.data: the folder {folder} holds no images; expected files named as MNIST's, such as "
            "train-images-idx3-ubyte, also in .gz, and the labels beside them"
        )
    if len(images) == 1:
        return {"all": read_pair(images[0])}
    parts: dict[str, Labelled] = {}
    for path in images:
        part = _PARTS.get(path.name.split("-")[0])
        if part is None or part in parts:
            names = ", ".join(path.name for path in images)
            raise UserError(
                f"task.data: the folder {folder} holds {names}; expected one file of images for each of train, "
                "validation, t10k (or test)"
            )
        parts[part] = read_pair(path)
    if "train" not in parts:
        raise UserError(f"task.data: the folder {folder} holds no train-images..., only {', '.join(parts)}")
    return parts


def read_pair(path: Path) -> Labelled:
    """The images of a file and their labels, whose file is named alike: labels for images, idx1."""
    pixels = read(path)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise UserError(f"task.data: {path} has the shape {list(pixels.shape)}; expected images, [N, H, W] or more")
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace(f"idx{pixels.ndim}", "idx1")
    places = [path.with_name(stem), path.with_name(f"{stem}.gz")]
    place = next((one for one in places if one.is_file()), None)
    if place is None:
        raise UserError(f"task.data: {path} has no labels beside it; expected {places[0].name}, also in .gz")
    labels = read(place)
    if labels.shape != pixels.shape[:1]:
        numbers = f"{labels.size:,} labels" if labels.ndim == 1 else f"the shape {list(labels.shape)}"
        raise UserError(
            f"task.data: {path.name} holds {len(pixels):,} images, but {place.name} {numbers} (in {path.parent})"
        )
    return pixels, labels.astype(np.int64)


def read(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"task.data: {path} cannot be read: {error}") from error
    rank = content[3] if len(content) > 3 else 0
    head = 4 + 4 * rank
    if content[:2] != b"\0\0" or not rank or len(content) < head:
        raise UserError(f"task.data: {path} is not an idx file: it does not begin with two zero bytes and a header")
    if content[2] != _BYTES:
        raise UserError(f"task.data: {path} holds numbers of type 0x{content[2]:02x}; expected unsigned bytes, 0x08")
    shape = tuple(np.frombuffer(content, ">u4", rank, 4).tolist())
    if len(content) - head != math.prod(shape):
        raise UserError(
            f"task.data: {path} holds {len(content) - head:,} bytes after its header, which says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape):,}; the file is damaged"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
