"""Find the checkpoints of a run that can be loaded. Files are inspected, never unpickled."""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from sj_lang.errors import UserError
from sj_lang.manifest import read_json

_STATE = "trainer_state.json"
#: the entry of trainer_state.json that says whose checkpoint it is. transformers writes that file
#: last, so a checkpoint that was not written to its end has none
MARK = "RunMark"


def steps(root: Path) -> dict[int, Path]:
    """step -> checkpoint folder, the newest first."""
    folders = {}
    for folder in root.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if number and folder.is_dir():
            folders[int(number[1])] = folder
    return dict(sorted(folders.items(), reverse=True))


def newest(root: Path, run: str) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of run `run` in `root` that can be loaded, and a note on each newer one that cannot.

    None: there are no checkpoints at all. Raises UserError when there are some and none can be
    loaded.
    """
    notes: list[str] = []
    for folder in steps(root).values():
        reason = why_not(folder, run)
        if not reason:
            return folder, notes
        notes.append(f"{folder.name} is skipped: {reason}")
    if notes:
        raise UserError(
            f"{root}: none of its checkpoints can be loaded.\n  "
            + "\n  ".join(note.replace(" is skipped", "") for note in notes)
            + "\nTo train from the beginning, choose another folder: output=..."
        )
    return None, notes


def mark(checkpoint: Path) -> dict[str, Any]:
    """What the run counted up to this checkpoint: {"seconds": ..., "busy_seconds": ..., "tokens": ...}."""
    attributes: dict[str, Any] = read_json(checkpoint / _STATE)["stateful_callbacks"][MARK]["attributes"]
    return attributes


def why_not(folder: Path, run: str) -> str:
    """Why a checkpoint cannot be loaded; "" if it can, as far as its files tell."""
    try:
        state = read_json(folder / _STATE)
    except FileNotFoundError:
        return f"{_STATE} is missing, so it was not written to its end"
    except (OSError, ValueError):
        return f"{_STATE} is cut off or damaged"
    if state.get("stateful_callbacks", {}).get(MARK, {}).get("args", {}).get("run") != run:
        return "it belongs to another run, and only a run's own checkpoints are loaded"
    weights = sorted(folder.glob("*.safetensors"))
    pickles = sorted([*folder.glob("*.pt"), *folder.glob("*.pth")])
    names = {path.name for path in pickles}
    sharded = any(path.is_dir() for path in folder.glob("*_0*")) or (folder / "zero_to_fp32.py").exists()
    if not weights and not sharded:
        return "it holds no weights"
    if not sharded:
        for needed in ("optimizer.pt", "scheduler.pt"):
            if needed not in names:
                return f"{needed} is missing (a checkpoint saved with save_only_model cannot be resumed)"
    for path in weights:
        if reason := _damaged_safetensors(path):
            return f"{path.name} {reason}"
    for path in pickles:
        if reason := _damaged_zip(path):
            return f"{path.name} {reason}"
    return ""


def _damaged_safetensors(path: Path) -> str:
    """Compare the header's length and the offsets it states with the size of the file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                return "is cut off"
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError):
        return "is damaged"
    return "is cut off" if size != 8 + length + end else ""


def _damaged_zip(path: Path) -> str:
    """torch.save writes a zip archive: its directory stands at the end, and each member has a checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "is damaged" if archive.testzip() else ""
    except (zipfile.BadZipFile, OSError, EOFError):
        return "is cut off or damaged"


def rebase(checkpoint: Path) -> None:
    """Correct the path of the best checkpoint in a checkpoint's state if the folder has moved.

    transformers stores that path as it was at the time and forgets the best checkpoint when the
    folder has moved.
    """
    state = read_json(checkpoint / _STATE)
    best = state.get("best_model_checkpoint")
    here = checkpoint.parent / Path(best).name if best else None
    if here and here.is_dir() and str(here) != best:
        state["best_model_checkpoint"] = str(here)
        scratch = checkpoint / (_STATE + ".part")
        scratch.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(scratch, checkpoint / _STATE)
