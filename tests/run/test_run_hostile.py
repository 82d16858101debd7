"""What a run folder from elsewhere, a full disk or a strange environment cannot do."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny import write_recipe

from sj_lang import cli, run
from sj_lang.errors import RunFailed
from sj_lang.folder import RunFolder
from sj_lang.manifest import Manifest, read_json
from sj_lang.recipe import load
from sj_lang.run.console import is_main_process


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "r", ignore=shutil.ignore_patterns("checkpoint-*")))


@pytest.mark.parametrize("command", ["report", "eval", "generate"])
@pytest.mark.parametrize(
    "name", ["sample.txt", "figures/raster.png", "report.html", "eval.json", "eval.json.part", "figures"]
)
def test_no_link_is_followed(root: Path, name: str, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    secret = root.parent / "secret"
    secret.write_text("a secret")
    path = root / name
    if path.is_dir():
        path.rename(root.parent / "figures")
        path.symlink_to(root.parent / "figures")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    assert cli.main([command, str(root)]) == 2
    assert f"{name} is a link to" in capfd.readouterr().err
    assert secret.read_text() == "a secret"
    assert name == "report.html" or "a secret" not in (root / "report.html").read_text()


@pytest.mark.parametrize("command", ["report", "eval", "generate", "run --resume"])
@pytest.mark.parametrize("name", ["manifest.json", "recipe.yaml", "model/config.json", "anything"])
def test_no_pipe_is_opened(root: Path, name: str, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    assert cli.main([*command.split(), str(root)]) == 2
    assert f"{name} is a pipe or a device" in capfd.readouterr().err


def test_a_resume_reads_no_recipe_through_a_link(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = root.with_name("secret")
    secret.write_text("a secret")
    (root / "recipe.yaml").unlink()
    (root / "recipe.yaml").symlink_to(secret)
    assert cli.main(["run", "--resume", str(root)]) == 2
    errors = capfd.readouterr().err
    assert "recipe.yaml is a link to" in errors
    assert "a secret" not in errors


@pytest.mark.parametrize("more", ["runs: {a: {}}\n", "seeds: [1, 2]\n"])
def test_the_recipe_of_a_run_is_that_of_no_series(root: Path, more: str, capfd: pytest.CaptureFixture[str]) -> None:
    with (root / "recipe.yaml").open("a") as file:
        file.write(more)
    for command in ("eval", "generate"):
        assert cli.main([command, str(root)]) == 2
        assert "recipe.yaml is the recipe of a series" in capfd.readouterr().err


def test_a_changed_recipe_is_noted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = root / "recipe.yaml"
    path.write_text(path.read_text().replace("windows: 48", "windows: 40"))
    assert cli.main(["eval", str(root)]) == 0
    assert "recipe.yaml: task.windows is 40, in the run it was 48" in capfd.readouterr().out


def test_a_run_that_says_done_needs_figures(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "metrics.json").unlink()
    assert cli.main(["run", "--resume", str(root)]) == 2
    assert "is done, by its manifest.json, and has no figures in metrics.json" in capfd.readouterr().err


def test_a_resume_writes_its_results_anew(root: Path) -> None:
    """What lies at their places, of an earlier end or by accident, is not mixed with them."""
    weights = (root / "model/model.safetensors").read_bytes()
    manifest = read_json(root / "manifest.json")
    (root / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    (root / "model/model.safetensors.index.json").write_text("{}")
    for name in ("figures", "predictions"):
        shutil.rmtree(root / name)
        (root / name).touch()
    (root / "unfinished").touch()
    (root / "metrics.json").unlink()
    (root / "metrics.json").mkdir()
    assert cli.main(["run", "--resume", str(root)]) == 0
    assert (root / "model/model.safetensors").read_bytes() == weights
    assert not (root / "model/model.safetensors.index.json").exists()
    assert (root / "predictions/test.npz").is_file()


def test_a_comparison_replaces_a_link(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root, root.with_name("s"))
    secret, page = root.with_name("secret"), root.with_name("report.html")
    secret.write_text("a secret")
    page.symlink_to(secret)
    assert cli.main(["report", str(root), str(root.with_name("s"))]) == 0
    assert secret.read_text() == "a secret"
    assert not page.is_symlink()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ""])
def test_runs_of_a_series_lie_inside(root: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = read_json(root / "manifest.json")
    (root / "manifest.json").write_text(json.dumps(manifest | {"children": [name]}))
    assert cli.main(["report", str(root)]) == 2
    assert "names no run of the series" in capfd.readouterr().err


def test_a_terminal_gets_no_control_characters(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = read_json(root / "metrics.json")
    (root / "metrics.json").write_text(json.dumps(metrics | {"a\x1b[2J": "x\x1b[31m\x07"}))
    assert cli.main(["report", str(root)]) == 2
    errors = capfd.readouterr().err
    assert "\x1b" not in errors
    assert r"a\x1b[2J" in errors


def _full(self: Path, *args: object, **kwargs: object) -> object:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_eval_says_what_it_cannot_write(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "replace", _full)
    assert cli.main(["eval", str(root)]) == 2
    output, errors = capfd.readouterr()
    assert "test.loss" in output
    assert errors == f"error: {root / 'eval.json'}: No space left on device\n"
    assert not (root / "eval.json.part").exists()


def test_a_run_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first checkpoint on nothing can be written until the reserve is given back."""
    full, release, write = [False], Manifest.release, Manifest.write

    def fill(folder: RunFolder, entry: object) -> None:
        full[0] = True
        _full(folder.root)

    def written(manifest: Manifest) -> None:
        _full(manifest.path) if full[0] else write(manifest)

    def released(manifest: Manifest) -> None:
        assert (tmp_path / "r" / ".reserve").stat().st_size == 1 << 16
        full[0] = False
        release(manifest)
        monkeypatch.undo()

    monkeypatch.setattr(RunFolder, "append", fill)
    monkeypatch.setattr(Manifest, "write", written)
    monkeypatch.setattr(Manifest, "release", released)
    with pytest.raises(RunFailed, match="No space left on device"):
        run.execute(load(write_recipe(tmp_path), ["output=r"]))
    manifest = read_json(tmp_path / "r" / "manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("failed", 1)
    assert "Traceback" in (tmp_path / "r" / "log.txt").read_text()
    assert not (tmp_path / "r" / ".reserve").exists()


def test_without_room_for_its_reserve_no_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, write = write_recipe(tmp_path), Path.write_bytes

    def written(place: Path, data: bytes) -> object:
        write(place, data[: len(data) // 2])
        return _full(place)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", written)
        assert cli.main(["run", path, "output=r", "train.max_steps=2"]) == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'r/.reserve'}: No space left on device\n"
    assert {one.name for one in (tmp_path / "r").iterdir()} == {".lock", "recipe.yaml"}
    assert cli.main(["run", path, "output=r", "train.max_steps=2"]) == 0


def test_a_resume_that_cannot_begin_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = read_json(root / "manifest.json")
    (root / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    monkeypatch.setattr(RunFolder, "rewind", _full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    assert cli.main(["run", "--resume", str(root)]) == 1
    assert "No space left on device. The disk of" in capfd.readouterr().err
    assert read_json(root / "manifest.json")["status"] == "failed"


def test_a_log_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    console = run.console.Console()
    console.open(Path("/dev/full"))
    console.record("a")
    console.record("b")
    console.close()
    errors = capfd.readouterr().err
    assert errors.count("cannot be written") == 1
    assert "Traceback" not in errors


def test_a_rank_alone_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert is_main_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_main_process()


def test_changes_after_resume_are_changes(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--resume", str(root), "train.max_steps=60"]) == 2
    assert "train.max_steps: 12 there, 60 now" in capfd.readouterr().err
