"""From `task.data` to images and labels by part."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sj_lang import build, plugins
from sj_lang.errors import UserError
from sj_lang.hf import HUB, data_sets
from sj_lang_tasks.data import idx
from sj_lang_tasks.data.idx import Labelled

PARTS = ("train", "validation", "test")


@dataclass(kw_only=True)
class ImageSet:
    """pixels: `[N, C, H, W]`. labels: `[N]`, from 0 to len(names) - 1."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[np.int64]) -> "ImageSet":
        return ImageSet(pixels=self.pixels[chosen], labels=self.labels[chosen])

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes())
        return {"images": len(self), "sha256": digest.hexdigest()}


def read(data: str | Mapping[str, str]) -> tuple[dict[str, ImageSet], list[str]]:
    """The parts of `task.data`, or `{"all": ...}`, all of one size, and the names of the classes.

    data: a registered source with `images()`, `hub:owner/name[/config]`, a folder of idx files or
    one file of images, in this order; or a mapping of `train`, `validation`, `test` to these files.
    """
    unordered = _read(data)
    raw = {part: unordered[part] for part in ("all", *PARTS) if part in unordered}
    names = np.unique(next(iter(raw.values()))[1])
    if len(names) < 2:
        raise UserError(f"task.data: all images have the label {names[0]}; expected at least two classes")
    sets = {part: _checked(part, pixels, labels, names) for part, (pixels, labels) in raw.items()}
    first, *others = sets
    for part in others:
        sizes = [" x ".join(map(str, sets[name].pixels.shape[1:])) for name in (first, part)]
        if sizes[0] != sizes[1]:
            raise UserError(f"task.data: images of {first} are {sizes[0]} (C x H x W), those of {part} {sizes[1]}")
    return sets, [str(name) for name in names]


def _checked(part: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64], names: NDArray[np.int64]) -> ImageSet:
    strange = sorted(set(labels.tolist()) - set(names.tolist()))
    if strange:
        raise UserError(f"task.data: {part} has the label {strange[0]}, which no training image has")
    channels_first = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    return ImageSet(pixels=np.ascontiguousarray(channels_first), labels=np.searchsorted(names, labels))


def _read(data: str | Mapping[str, str]) -> dict[str, Labelled]:
    if isinstance(data, Mapping):
        if "train" not in data or "dev" in data:
            names = ", ".join(data)
            raise UserError(f"task.data: expected train, and validation and test if you have them; found {names}")
        return {part: idx.read_pair(Path(data[part]).expanduser()) for part in PARTS if part in data}
    if data in [source.name for source in plugins.all("source")]:
        source = build.part("source", data)()
        if not hasattr(source, "images"):
            raise UserError(f"task.data: the source '{data}' has no images")
        return dict(source.images())
    if data.startswith(HUB):
        return _of_hub(data)
    path = Path(data).expanduser()
    return idx.read_folder(path) if path.is_dir() else {"all": idx.read_pair(path)}


def _of_hub(place: str) -> dict[str, Labelled]:
    """The splits of a data set with one column of images and one of classes."""
    loaded = data_sets.load(place, instead="a folder of idx files")
    features = next(iter(loaded.values())).features
    columns = {kind: [n for n, f in features.items() if type(f).__name__ == kind] for kind in ("Image", "ClassLabel")}
    if not columns["Image"] or not columns["ClassLabel"] or "train" not in loaded:
        raise UserError(f"task.data: {place} has no split 'train' with columns of images and of classes")
    image, label = columns["Image"][0], columns["ClassLabel"][0]
    return {
        part: (np.stack([np.asarray(one) for one in loaded[part][image]]), np.asarray(loaded[part][label]))
        for part in PARTS
        if part in loaded
    }
