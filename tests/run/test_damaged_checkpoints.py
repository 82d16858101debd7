"""Each file of a checkpoint damaged in six ways: the resumed run ends as if it had never been
stopped, and says what it did not use."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from test_run_resume import figures, lines, same_weights
from tiny import write_recipe

from sj_lang import run
from sj_lang.errors import Interrupted
from sj_lang.recipe import load


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def _swap(path: Path) -> None:
    """With the file of this name of the other checkpoint, else with another file of this one."""
    (other,) = (one for one in path.parent.parent.glob("checkpoint-*") if one != path.parent)
    with_other = [other / path.name, *(one for one in sorted(path.parent.iterdir()) if one.name > path.name)]
    partner = next((one for one in with_other if one.read_bytes() != path.read_bytes()), None)
    if partner is not None:
        data = partner.read_bytes()
        partner.write_bytes(path.read_bytes())
        path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": _flip,
    "lost": Path.unlink,
    "swapped": _swap,
    "folder": _folder,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was never stopped, and one with two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe = write_recipe(folder)
    with tiny.offered(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr("sj_lang.report.figures._save", lambda figure, path: None)
        run.execute(load(recipe, [f"output={folder / 'straight'}"]))
        patch.setattr(tiny.Windows, "__getitem__", tiny.Windows.__getitem__)
        tiny.StopAt(38)
        with pytest.raises(Interrupted):
            run.execute(load(recipe, [f"output={folder / 'r'}"]))
    assert len(list((folder / "r").glob("checkpoint-*"))) == 2
    return folder / "straight", folder / "r"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("newest", [True, False], ids=["newest", "older"])
@pytest.mark.parametrize("way", WAYS)
def test_each_file(way: str, newest: bool, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    straight, source = stopped
    checkpoint = sorted(source.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1 if newest else 0]
    files = sorted(path.name for path in checkpoint.iterdir())
    assert len(files) >= 8
    for file in files:
        shutil.copytree(source, "r")
        before = (Path("r") / checkpoint.name / file).read_bytes()
        WAYS[way](Path("r") / checkpoint.name / file)
        damaged = not (path := Path("r") / checkpoint.name / file).is_file() or path.read_bytes() != before
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert run.execute(load("r/recipe.yaml"), resume="r") == 0, file
        assert same_weights(Path("r"), straight), file
        assert lines(Path("r")) == lines(straight), file
        assert figures(Path("r")) == figures(straight), file
        assert not (newest and damaged) or f"{checkpoint.name} is skipped: " in said.getvalue(), (file, said.getvalue())
        shutil.rmtree("r")
