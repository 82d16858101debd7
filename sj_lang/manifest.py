"""manifest.json: what ran, on what, with which versions, and how it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distributions, entry_points, version
from pathlib import Path
from typing import Any, Literal

from sj_lang.errors import redacted

Status = Literal["running", "done", "failed", "interrupted"]
#: the field "loss" of a manifest whose task says no more
LOSS = "mean loss of the split, as its task defines it"
RESERVE = ".reserve"

_PACKAGES = (
    "accelerate", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "datasets", "numpy", "safetensors", "spikingjelly",
    "tokenizers", "torch", "transformers", "triton",
)  # fmt: skip


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one.

    Links are replaced, not followed. OSError, naming the file.
    """
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.unlink(missing_ok=True)
        with scratch.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, content: Any) -> None:
    """`write_text` of JSON; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def plain(content: Any) -> Any:
    """What JSON makes of it: tuples are lists, keys are text, other objects their text."""
    return json.loads(json.dumps(content, default=str))


def read_json(path: Path) -> dict[str, Any]:
    """Raises OSError or ValueError if the file is missing or not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


def versions() -> dict[str, str]:
    """Versions of Python, of libraries that decide figures, and of distributions with plugins."""
    plugins = {entry.dist.name for entry in entry_points(group="sj_lang") if entry.dist}
    numbers = {"python": platform.python_version()}
    for name in sorted({*_PACKAGES, *plugins}):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


def editable() -> dict[str, str]:
    """The commits of plugins installed from a folder: distribution -> "commit[, changed]"."""
    states = {}
    for name in sorted({entry.dist.name for entry in entry_points(group="sj_lang") if entry.dist}):
        direct = (one.read_text("direct_url.json") for one in distributions(name=name))
        installed = next(filter(None, direct), "{}")  # an *.egg-info that comes first has none
        url = json.loads(installed).get("url", "")
        if url.startswith("file://") and (state := _git(Path(url.removeprefix("file://")))):
            states[name] = state
    return states


def _git(folder: Path) -> str:
    """The commit that a folder is at; "" outside a repository or without git."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        changed = ", changed" if ask("status", "--porcelain", "--untracked-files=no") else ""
        return ask("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return ""


def device(world_size: int, name: str) -> dict[str, Any]:
    """What decides figures and speed. name: the torch device, e.g. "cpu" or "cuda:0"."""
    import torch

    machine: dict[str, Any] = {
        "device": name,
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    if name.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name(torch.device(name))
        machine["cuda"] = torch.version.cuda
    return machine


class Manifest:
    """The content of a manifest.json, written at each change. Checkpoints carry its `id`."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def start(cls, path: Path, **fields: Any) -> Manifest:
        """A new run, status "running"."""
        content: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "status": "running",
            "exit_code": None,
            "started": now(),
            "ended": None,
            "argv": sys.argv,
            "versions": versions(),
            "commits": editable(),
            **fields,
        }
        return cls(path, content)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        return cls(path, read_json(path))

    @property
    def id(self) -> str:
        return str(self.content["id"])

    @property
    def status(self) -> str:
        return str(self.content["status"])

    def resume(self, **fields: Any) -> None:
        """The run goes on in a new process; what may differ there is kept per session."""
        sessions = self.content.setdefault("resumed", [])
        sessions.append({"started": now(), "argv": sys.argv, "versions": versions(), "commits": editable(), **fields})
        self.content.update(status="running", exit_code=None, ended=None)

    def reserve(self) -> None:
        """Take room on the disk, so that a run can say how it ended if the disk is full by then."""
        path = self.path.with_name(RESERVE)
        try:
            path.write_bytes(bytes(1 << 16))
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error

    def release(self) -> None:
        self.path.with_name(RESERVE).unlink(missing_ok=True)

    def end(self, status: Status, exit_code: int, error: str = "") -> None:
        self.release()
        self.content.update(status=status, exit_code=exit_code, ended=now())
        self.content.pop("error", None)
        if error:
            self.content["error"] = error
        self.write()

    def update(self, fields: Mapping[str, Any]) -> None:
        self.content.update(fields)

    def write(self) -> None:
        write_text(self.path, redacted(json.dumps(self.content, indent=2, allow_nan=False)) + "\n")
