"""Recordings of event cameras, through SpikingJelly's own classes."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sj_lang.errors import Unreachable, UserError

Recordings = Literal["n_mnist", "cifar10_dvs", "dvs128_gesture"]


@dataclass(frozen=True)
class Source:
    """A data set. splits: it comes as train and test; otherwise all of it is cut."""

    target: str
    classes: int
    size: int
    splits: bool


SOURCES: dict[str, Source] = {
    "n_mnist": Source("n_mnist:NMNIST", 10, 34, True),
    "cifar10_dvs": Source("cifar10_dvs:CIFAR10DVS", 10, 128, False),
    "dvs128_gesture": Source("dvs128_gesture:DVS128Gesture", 11, 128, True),
}


def read(name: str, folder: str | None, *, steps: int) -> dict[str, Any]:
    """The parts of a data set, `{"train": ..., "test": ...}` or `{"all": ...}`; items are frames
    `[T, 2, H, W]` of equally many events each, and the number of the class.

    folder: holds the published files in its folder `download`. SpikingJelly converts them beside
    it, once. Unreachable, which a dry run survives, if folder is None.
    """
    source = SOURCES[name]
    module, _, title = source.target.partition(":")
    made = getattr(import_module(f"spikingjelly.datasets.{module}"), title)
    files = [file for file, _, _ in made.resource_url_md5()]
    where = sorted({address for _, address, _ in made.resource_url_md5()})[0]
    if folder is None:
        raise Unreachable(
            f"task.data is not set: get {_listed(files)} from {where}, put them into FOLDER/download, and set "
            "task.data=FOLDER"
        )
    root = Path(folder).expanduser()
    missing = [file for file in files if not (root / "download" / file).is_file()]
    if missing and not (root / "events_np").is_dir():
        raise UserError(f"task.data: {root / 'download'} has no {_listed(missing)}; get it from {where}")
    options: dict[str, Any] = {"data_type": "frame", "frames_number": steps, "split_by": "number"}
    if not source.splits:
        return {"all": made(str(root), **options)}
    return {part: made(str(root), train=part == "train", **options) for part in ("train", "test")}


def _listed(files: list[str]) -> str:
    return ", ".join(files) if len(files) < 4 else f"{files[0]} and {len(files) - 1} more files"
