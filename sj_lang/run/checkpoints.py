"""The checkpoints of a run: put in place whole, verified before they are loaded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sj_lang.errors import UserError
from sj_lang.folder import is_figure, remove
from sj_lang.manifest import read_json, write_json

#: where a checkpoint lies until it is whole
SCRATCH = "unfinished"
#: file -> SHA-256, of all other files of a checkpoint
SUMS = "checksums.json"
#: the entry of trainer_state.json that says whose checkpoint it is
MARK = "RunMark"

_STATE = "trainer_state.json"
_FOREIGN = "it belongs to another run, and only a run's own checkpoints are loaded"
_NEEDED = ("*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth")


def steps(root: Path) -> dict[int, Path]:
    """step -> checkpoint folder, the newest first."""
    folders = {}
    for folder in root.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-([1-9][0-9]*)", folder.name)
        if number and folder.is_dir():
            folders[int(number[1])] = folder
    return dict(sorted(folders.items(), reverse=True))


def name(step: int | None) -> str:
    return f"checkpoint-{step}"


def seal(folder: Path) -> None:
    """Write down what the files of a checkpoint hold."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    write_json(folder / SUMS, {path.relative_to(folder).as_posix(): _digest(path) for path in files})


def publish(root: Path, step: int) -> None:
    """Seal the checkpoint in the scratch folder and give it its name, replacing an older one."""
    written, final = root / SCRATCH / name(step), root / name(step)
    seal(written)
    if final.exists():
        os.replace(final, root / SCRATCH / "replaced")
    os.replace(written, final)
    shutil.rmtree(root / SCRATCH)


def clear(root: Path, step: int) -> None:
    """Before a training goes on from `step`: remove what is unfinished, set later ones aside."""
    remove(root / SCRATCH)
    for later, folder in steps(root).items():
        if later > step:
            aside = root / f"damaged-{later}"
            remove(aside)
            os.replace(folder, aside)


def newest(root: Path, run: str) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of run `run` that can be loaded, and a note on each newer one.

    None: there is none. UserError if there are only some of other runs.
    """
    notes: list[str] = []
    reasons = []
    for step, folder in steps(root).items():
        reason = why_not(folder, run)
        if not reason:
            if not (folder / SUMS).exists():
                notes.append(f"{folder.name} has no {SUMS}, so its files cannot be verified")
            return folder, notes
        reasons.append(reason)
        notes.append(f"{folder.name} is skipped: {reason}. It is kept as damaged-{step}")
    if _FOREIGN in reasons:
        raise UserError(
            f"{root}: none of its checkpoints can be loaded.\n  "
            + "\n  ".join(f"{folder.name}: {why}" for folder, why in zip(steps(root).values(), reasons, strict=True))
            + "\nTo train from the beginning, choose another folder: output=..."
        )
    notes.append(
        ("none of its checkpoints can be loaded" if reasons else "no checkpoint yet") + ": it starts from the beginning"
    )
    return None, notes


def mark(checkpoint: Path) -> dict[str, Any]:
    """What the run counted up to this checkpoint ("seconds", "tokens" ...), and the name of the
    best one, "best"."""
    state = read_json(checkpoint / _STATE)
    attributes: dict[str, Any] = state["stateful_callbacks"][MARK]["attributes"]
    return {"best": Path(state.get("best_model_checkpoint") or "").name} | attributes


def why_not(folder: Path, run: str) -> str:
    """Why a checkpoint cannot be loaded; "" if it can, as far as its files tell."""
    if reason := _damage(folder, run):
        return reason
    best = mark(folder)["best"]
    sharded = any(path.is_dir() for path in folder.iterdir())
    for needed in () if sharded else _NEEDED:
        if not any(folder.glob(needed)):
            return f"{needed} is missing (a checkpoint saved with save_only_model cannot be resumed)"
    if best and best != folder.name and (reason := _damage(folder.parent / best, run)):
        return f"{best}, the best so far, is lost: {reason}"
    return ""


def _damage(folder: Path, run: str) -> str:
    """Which file of a checkpoint is not as it was written, or that the checkpoint belongs to
    another run or step; "" if all is right."""
    if not (folder / _STATE).exists():
        return f"{_STATE} is missing, so it was not written to its end"
    if not (folder / SUMS).exists() and any(folder.parent.glob(f"checkpoint-*/{SUMS}")):
        return f"{SUMS} is missing"  # it is no run of an earlier version, which had none
    if (folder / SUMS).exists() and (reason := _changed(folder)):
        return reason
    try:
        owner = read_json(folder / _STATE)["stateful_callbacks"][MARK]["args"]["run"]
        step, counts = read_json(folder / _STATE)["global_step"], mark(folder)
        best = counts.pop("best")
        sound = all(is_figure(count) for count in counts.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{_STATE} is cut off or damaged"
    if owner != run:
        return _FOREIGN
    if not sound:
        return f"{_STATE} holds counts that are not numbers"
    if name(step) != folder.name:
        return f"its {_STATE} is of step {step!s:.20}"
    return "" if best in ("", Path(best).name) else f"{_STATE} names {best!r:.60} as the best"


def _changed(folder: Path) -> str:
    """The first file of a checkpoint that differs from its checksum; "" if none does."""
    try:
        sums = read_json(folder / SUMS)
    except (OSError, ValueError):
        sums = {}
    if _STATE not in sums or any(Path(file).is_absolute() or ".." in Path(file).parts for file in sums):
        return f"{SUMS} is cut off or damaged"
    for file, expected in sums.items():
        try:
            sound = _digest(folder / file) == expected
        except FileNotFoundError:
            return f"{file} is missing"
        except (OSError, ValueError) as error:
            return f"{file:.60} cannot be read ({getattr(error, 'strerror', error)})"
        if not sound:
            return f"{file} is cut off or damaged"
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    summed = {*sums, SUMS, *(str(above) for file in sums for above in Path(file).parents)}
    added = sorted(file for file in present - summed if not Path(file).name.startswith("."))
    return f"{added[0]!r:.60} was added to it" if added else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
