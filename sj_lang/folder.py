"""The folder of one run: claimed once, locked while in use, resumed only by its own recipe."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sj_lang.errors import UserError
from sj_lang.manifest import RESERVE, Manifest, plain, read_json, write_json, write_text

#: fields of a manifest on which something relies, and what they hold
_MANIFEST: dict[str, type] = {"id": str, "name": str, "status": str, "recipe": dict, "children": list}
_MANIFEST |= dict.fromkeys(("machine", "versions", "commits", "data", "sources", "files"), dict)
_MANIFEST |= dict.fromkeys(("argv", "notes", "resumed"), list) | dict.fromkeys(("loss", "started", "prompt"), str)
#: stands for a key that is not there, in differences
ABSENT = "(not set)"
_ANOTHER = "Choose another folder: output=..."
#: what a run that was ended while it began leaves behind
_BEGUN = {".lock", RESERVE, "log.txt", "recipe.yaml", "recipe.yaml.part", "manifest.json.part"}
#: what may be changed when a run is resumed: the weights do not depend on it
CHANGEABLE = ("generate", "measure")


def is_figure(value: Any) -> bool:
    """Whether this is a number, of 64 bits if it is whole."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _is_histogram(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_figure, value))


class RunFolder:
    """Paths below `root` and the rules of its life. Only the main process writes."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.shown = str(root)  # as the user wrote it, for messages
        self.recipe = self.root / "recipe.yaml"
        self.manifest = self.root / "manifest.json"
        self.metrics = self.root / "metrics.json"
        self.history = self.root / "metrics.jsonl"
        self.ledger = self.root / "ledger.json"
        self.log = self.root / "log.txt"
        self.model = self.root / "model"
        self.predictions = self.root / "predictions"
        self.figures = self.root / "figures"
        self.raster_text = self.figures / "raster.txt"
        self.sample = self.root / "sample.txt"
        self.report = self.root / "report.html"
        self.tensorboard = self.root / "tensorboard"
        self._lock: int | None = None

    def errors(self, split: str) -> Path:
        """What the model got most wrong on a split, as text."""
        return self.predictions / f"{split}.errors.txt"

    @property
    def continuing(self) -> str:
        """The command that continues the run in this folder."""
        return f"sj-lang run {self.shown}/{self.recipe.name} --resume {self.shown}"

    def _refuse_another(self, manifest: Manifest, resolved: Mapping[str, Any], what: str, cure: str) -> None:
        """Raise UserError if the run here is of another recipe."""
        if differing := differences(manifest.content.get("recipe", {}), resolved):
            recipes = listed(differing)
            raise UserError(f"{what} another recipe. Stored there, and asked for now:\n{recipes}\n{cure}")

    def refuse_unless_free(self, resolved: Mapping[str, Any]) -> None:
        """Raise UserError, with what to do, unless a new run may be written here."""
        if not os.path.lexists(self.root):
            self._refuse_unless_writable()
            return
        if not self.root.is_dir():
            raise UserError(f"output: {self.shown} is a file. Choose a folder: output=...")
        if not self.manifest.exists():
            names = {path.name for path in self.root.iterdir()}
            if names - _BEGUN or (names and ".lock" not in names):
                raise UserError(f"output: {self.shown} holds files, but no run. {_ANOTHER}")
            self._refuse_unless_writable()
            return
        manifest = self.read_manifest()
        self._refuse_another(manifest, resolved, f"output: {self.shown} belongs to", _ANOTHER)
        if manifest.status == "done":
            raise UserError(
                f"output: {self.shown} already holds this run, finished {manifest.content.get('ended')}. "
                "To train again, choose another folder (output=...) or remove this one."
            )
        raise UserError(
            f"output: {self.shown} holds this run, unfinished ({manifest.status}). "
            f"Continue it ({self.continuing}), or choose another folder: output=..."
        )

    def refuse_unless_own(self, resolved: Mapping[str, Any]) -> Manifest:
        """The manifest of the run to resume here. UserError if there is none of this recipe."""
        if not self.root.exists():
            raise UserError(f"--resume: {self.shown} does not exist")
        if not self.manifest.exists():
            raise UserError(f"--resume: {self.shown} is not a run folder (it has no manifest.json)")
        manifest = self.read_manifest("id")
        cure = f"Continue it as it is ({self.continuing}), or start a new run: output=..."
        self._refuse_another(manifest, resolved, f"--resume: {self.shown} was started with", cure)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise UserError(f"--resume: {self.shown} is not writable")
        return manifest

    def read_manifest(self, *needed: str) -> Manifest:
        """UserError if it is unreadable or incomplete, or if the folder holds a link."""
        self.refuse_links()
        try:
            manifest = Manifest.read(self.manifest)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.shown}: its manifest.json cannot be read ({error})") from error
        for key, kind in _MANIFEST.items():
            if not isinstance(manifest.content.get(key, kind()), kind):
                raise UserError(f"{self.manifest}: {key} is {manifest.content[key]!r:.60}; expected a {kind.__name__}")
        if lacking := [key for key in ("status", *needed) if key not in manifest.content]:
            raise UserError(f"{self.manifest}: it lacks {', '.join(lacking)}")
        names = manifest.content.get("children", [])
        if wrong := [name for name in names if not isinstance(name, str) or {"", "..", "."} & {*name.split("/")}]:
            raise UserError(f"{self.manifest}: {wrong[0]!r:.60} in children names no run of the series")
        return manifest

    def refuse_links(self) -> None:
        """UserError if the folder holds a symbolic link, or what is neither file nor folder.

        A file of a run is never read through a link, and opening a pipe would wait for ever.
        """
        for where, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(where, name)
                inside, mode = path.relative_to(self.root), path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    raise UserError(f"{self.shown}: {inside} is a link to {os.readlink(path)}; put a copy there")
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise UserError(f"{self.shown}: {inside} is a pipe or a device, which no run writes; remove it")

    def read(self, path: Path) -> bytes:
        """The content of a file of the run, b"" without it. UserError if it cannot be read."""
        try:
            return path.read_bytes() if os.path.lexists(path) else b""
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

    def read_text(self, path: Path) -> str:
        """The same as text."""
        try:
            return self.read(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error

    def trained_model(self, prefix: str = "") -> Path:
        """The folder of the trained model. UserError, beginning with `prefix`, without one."""
        if not self.manifest.exists():
            raise UserError(f"{prefix}{self.shown} is not a run folder (it has no manifest.json)")
        manifest = self.read_manifest()
        if names := manifest.content.get("children"):
            runs = ", ".join(f"{self.shown}/{name}" for name in names)
            raise UserError(f"{prefix}{self.shown} is a series; name one of its runs: {runs}")
        if not (self.model / "config.json").exists():
            raise UserError(f"{prefix}{self.shown} holds no trained model: the run is {manifest.status}")
        return self.model

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of the trained model, by its path in this folder."""
        files = sorted(path for path in self.model.iterdir() if path.is_file())
        return {f"{self.model.name}/{path.name}": hashlib.sha256(self.read(path)).hexdigest() for path in files}

    def create(self) -> str:
        """Make the folder of a new run, prove that it can be written to, and `lock` it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UserError(f"output: {self.shown} cannot be written: {error.strerror}. {_ANOTHER}") from error
        note = self.lock()
        if self.manifest.exists():
            self.unlock()
            raise UserError(f"output: another process has begun a run in {self.shown}. {_ANOTHER}")
        return note

    def lock(self) -> str:
        """Keep other processes out until `unlock` or the end of this one, however it ends.

        Returns a note if the file system has no locks. UserError if another process holds this one.
        """
        try:
            lock = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise UserError(f"{self.shown} cannot be locked: {error.strerror}: {self.shown}/.lock") from error
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 200).decode(errors="replace")
            os.close(lock)
            raise UserError(
                f"another process has begun a run in {self.shown} and is still at work: {holder or 'it is new'}. "
                f"Wait for its end. {_ANOTHER}"
            ) from error
        except (ImportError, OSError) as error:
            os.close(lock)
            return f"{self.shown} cannot be locked ({error}); make sure that no other process trains there"
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
        self._lock = lock
        os.register_at_fork(after_in_child=self.unlock)  # or orphaned workers would hold it
        return ""

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_unless_writable(self) -> None:
        nearest = self.root
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise UserError(f"output: {self.shown} cannot be created: {nearest} is a file. {_ANOTHER}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"output: {self.shown} cannot be written: no permission in {nearest}. {_ANOTHER}")

    def append(self, entry: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. JSON has no NaN and no infinity: they become null."""
        sound = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in entry.items()}
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sound, allow_nan=False) + "\n")

    def read_history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a last one cut short. UserError if one is wrong."""
        lines = self.read_text(self.history).splitlines()
        entries: list[dict[str, Any]] = []
        last = 0
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
                if number == len(lines):
                    break
            sound = isinstance(entry, dict) and all(
                one is None or is_figure(one) or (name.startswith("decays.") and _is_histogram(one))
                for name, one in entry.items()
            )
            if not sound or type(entry.get("step")) is not int:
                raise UserError(f"{self.history}, line {number}: expected a step and figures, found {line:.60}")
            if entry["step"] < last:
                raise UserError(f"{self.history}, line {number}: step {entry['step']} comes after step {last}")
            last = entry["step"]
            entries.append(entry)
        return entries

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps from metrics.jsonl: these steps are trained again."""
        kept = [entry for entry in self.read_history() if entry.get("step", 0) <= step]
        write_text(self.history, "".join(json.dumps(entry) + "\n" for entry in kept))

    def discard_results(self) -> None:
        """Remove what a run writes at its end, which it will write again."""
        for path in (
            self.model, self.predictions, self.figures, self.metrics, self.ledger, self.sample, self.report,
        ):  # fmt: skip
            remove(path)

    def read_metrics(self, sound: Callable[[Any], bool] = is_figure, what: str = "a number") -> dict[str, Any]:
        """metrics.json; empty if there is none yet. UserError if a value is not `what`."""
        if not self.metrics.exists():
            return {}
        try:
            metrics = read_json(self.metrics)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.metrics}: cannot be read ({error})") from error
        for name, value in metrics.items():
            if not sound(value):
                raise UserError(f"{self.metrics}: {name} is {value!s:.60}; expected {what}")
        return metrics

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_json(self.metrics, dict(metrics))


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def model_folder(place: str, key: str) -> Path:
    """The folder of a model: `place`, or the model's in a run folder. key: named in errors."""
    folder = RunFolder(Path(place))
    return folder.trained_model(f"{key}: ") if folder.manifest.exists() else folder.root


def comparable(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe as JSON, without the keys that do not change the training."""
    content: dict[str, Any] = plain(dict(resolved))
    for part in (content, *(content.get("runs") or {}).values()):
        for key in ("name", "summary", "output", *CHANGEABLE):
            part.pop(key, None)
    return content


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key path, stored, asked) for each difference that changes the training."""
    return compared(comparable(stored), comparable(asked))


def compared(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key path, stored, present) for each difference of two nested mappings."""
    ours, theirs = _flat(stored), _flat(present)
    return [
        (key, ours.get(key, ABSENT), theirs.get(key, ABSENT))
        for key in sorted({*ours, *theirs})
        if ours.get(key, ABSENT) != theirs.get(key, ABSENT)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def listed(differing: list[tuple[str, Any, Any]], limit: int = 8) -> str:
    lines = [f"  {key}: {stored!r} there, {asked!r} now" for key, stored, asked in differing[:limit]]
    if len(differing) > limit:
        lines.append(f"  and {len(differing) - limit} more")
    return "\n".join(lines)
