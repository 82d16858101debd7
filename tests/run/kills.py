"""Ends a tiny run at each of its file operations, resumes it, and compares the outcome bit for bit.

`python kills.py FOLDER KIND EVERY STRIDE`. What SIGKILL leaves behind is what is on the disk, so
one run that copies its folder before each operation gives the states of all kills; a further state
for each file has it cut in half. Every EVERY-th state is resumed. SIGTERM, SIGHUP
and SIGINT are sent at every STRIDE-th operation. Each run is a process forked from this one, which
has imported everything and computed nothing.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny

from sj_lang import manifest, run
from sj_lang.errors import SjLangError
from sj_lang.folder import RunFolder
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.report import figures

KINDS = {
    "steps": ["task.windows=10", "train.max_steps=4", "train.eval_steps=2"],  # ends within an epoch
    "epochs": ["task.windows=10", "train.max_steps=-1", "train.num_train_epochs=2", "train.save_strategy=epoch"],
    "stream": ["task.stream=true", "train.max_steps=4", "train.eval_steps=2"],
}
COMMON = ["measure.energy=false", "measure.raster=false", "train.logging_steps=1", "generate.max_new_tokens=2"]
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
TIMED = ("train.seconds", "train.seconds_per_step", "train.tokens_per_second")


def in_child(work: Callable[[], object]) -> int:
    """The exit code of a forked process that does the work; minus the signal that ended it."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SjLangError as error:
        code = error.exit_code
        print(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def at_each_operation(root: Path, act: Callable[[int, str], None]) -> Iterator[None]:
    """Call `act` with the number and the file of each operation below `root`, before it is done."""
    number, active = 0, True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number, active
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not active or not (opens or event in WRITES) or isinstance(arguments[0], int):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(str(root)):
            return
        active = False
        number += 1
        act(number, path)
        active = True

    sys.addaudithook(hook)  # for good: hooks cannot be removed
    try:
        yield
    finally:
        active = False


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def undrawn(figure: object, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"drawn")


def begin(recipe: str, changes: list[str]) -> None:
    run.execute(load(recipe, changes))


def go_on(recipe: str, changes: list[str]) -> None:
    if (Path("r") / "manifest.json").exists():
        run.execute(load("r/recipe.yaml"), resume="r")
    else:
        begin(recipe, changes)


def outcome(root: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was ended."""
    folder = RunFolder(root)
    record = read_json(folder.manifest)
    files = content(root)
    report = files.get("report.html", b"")
    return {
        "status": (record["status"], record["exit_code"], record["chosen_step"]),
        "figures": {name: value for name, value in read_json(folder.metrics).items() if name not in TIMED},
        "history": [{k: v for k, v in line.items() if k not in TIMED} for line in folder.read_history()],
        "model": {n: hashlib.sha256(data).hexdigest() for n, data in files.items() if n.startswith("model/")},
        "others": {n: data for n, data in files.items() if n.startswith(("predictions/", "figures/", "sample"))},
        "left over": sorted(name for name in files if name.endswith(".part") or name.startswith("unfinished")),
        "report": b"</html>" in report,
    }


def states(recipe: str, changes: list[str], folder: Path) -> list[Path]:
    """Copies of a run's folder before each of its operations,
    and with each file that is written cut in half.
    """
    root, copies = folder / "r", folder / "states"
    copies.mkdir()

    def copy(number: int, path: str) -> None:
        if root.exists():
            shutil.copytree(root, copies / f"{number:04d}")

    def record() -> None:
        with at_each_operation(root, copy):
            begin(recipe, changes)

    assert in_child(record) == 0
    contents = [content(path) for path in sorted(copies.iterdir())]
    whole = sorted(copies.iterdir())
    for path, before, after in zip(whole, contents, contents[1:], strict=False):
        for name, data in after.items():
            old = before.get(name, b"")
            if data not in (*before.values(), b"") and not name.startswith(("log.txt", "unfinished/checkpoint-4")):
                half = copies / f"{path.name} {name.replace('/', ' ')}"
                shutil.copytree(path, half)
                (half / name).parent.mkdir(parents=True, exist_ok=True)
                cut = data[: (len(old) + len(data)) // 2] if data.startswith(old) else data[: len(data) // 2]
                (half / name).write_bytes(cut)
    seen: dict[str, Path] = {}
    for path in sorted(copies.iterdir()):
        known = hashlib.sha256(repr(sorted(content(path).items())).encode()).hexdigest()
        seen.setdefault(known, path)
    return list(seen.values())


def main(folder: Path, kind: str, every: int, stride: int) -> int:
    os.chdir(folder)
    root = folder / "r"
    figures._save = undrawn
    manifest.versions, manifest.editable = dict, dict  # type: ignore[assignment]
    recipe, changes = tiny.write_recipe(folder), [*KINDS[kind], *COMMON, "output=r"]
    run.quiet_libraries()
    gc.collect()
    gc.freeze()
    verdicts = []

    def compare(what: str, expected: dict[str, Any]) -> None:
        code = in_child(lambda: go_on(recipe, changes))
        actual = outcome(root) if code == 0 else {}
        wrong = [f"{key}: {actual.get(key)} for {value}" for key, value in expected.items() if actual.get(key) != value]
        verdicts.append(not wrong)
        if wrong:
            print(f"{what}: the resume ends with {code}", *wrong, sep="\n  ", flush=True)
        if root.exists():
            shutil.rmtree(root)

    killed = states(recipe, changes, folder)[::every]
    expected = outcome(root)
    operations = int(max(path.name for path in (folder / "states").iterdir())[:4])
    shutil.rmtree(root)
    print(f"{kind}: {operations} operations, {len(killed)} states", flush=True)
    for state in killed:
        shutil.copytree(state, root)
        compare(f"SIGKILL at {state.name}", expected)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        for place in range(1, operations, stride):

            def send(operation: int, path: str, at: int = place, sent: int = number) -> None:
                if operation == at:
                    os.kill(os.getpid(), sent)

            def stopped(send: Callable[[int, str], None] = send) -> None:
                with at_each_operation(root, send):
                    begin(recipe, changes)

            code = in_child(stopped)
            assert code in (0, 129, 130, 143, -number), f"{number.name} at {place}: {code}"
            compare(f"{number.name} at {place} ({code})", expected)
    print(f"{kind}: {operations} operations, {len(verdicts)} kills, {verdicts.count(False)} failures")
    return int(not all(verdicts))


if __name__ == "__main__":
    with tiny.offered():
        sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
