"""Recordings of event cameras, through SpikingJelly's own classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sj_lang.errors import Unreachable, UserError

Recordings = Literal["n_mnist", "cifar10_dvs", "dvs128_gesture"]


@dataclass(frozen=True)
class CameraData:
    """What is known of a data set. splits: it comes as train and test; otherwise it is cut."""

    classes: int
    size: int
    splits: bool


SETS: dict[str, CameraData] = {
    "n_mnist": CameraData(classes=10, size=34, splits=True),
    "cifar10_dvs": CameraData(classes=10, size=128, splits=False),
    "dvs128_gesture": CameraData(classes=11, size=128, splits=True),
}


def class_of(name: str) -> Any:
    """SpikingJelly's class of a data set."""
    if name == "n_mnist":
        from spikingjelly.datasets.n_mnist import NMNIST

        return NMNIST
    if name == "cifar10_dvs":
        from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS

        return CIFAR10DVS
    from spikingjelly.datasets.dvs128_gesture import DVS128Gesture

    return DVS128Gesture


def read(name: str, folder: str | None, *, steps: int) -> dict[str, Any]:
    """The parts of a data set, `{"train": ..., "test": ...}` or `{"all": ...}`; items are frames
    `[T, 2, H, W]` of equally many events each, and the number of the class.

    folder: holds the published files in its folder `download`. SpikingJelly converts them beside
    it, once. Unreachable, which a dry run survives, if folder is None.
    """
    recorded = class_of(name)
    files = [file for file, _, _ in recorded.resource_url_md5()]
    where = min(address for _, address, _ in recorded.resource_url_md5())
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
    if not SETS[name].splits:
        return {"all": recorded(str(root), **options)}
    return {part: recorded(str(root), train=part == "train", **options) for part in ("train", "test")}


def _listed(files: list[str]) -> str:
    return ", ".join(files) if len(files) < 4 else f"{files[0]} and {len(files) - 1} more files"
