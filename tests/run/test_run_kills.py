"""A run killed at any of its file operations and resumed ends as if it had never been killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kills
import pytest
from tiny import write_recipe

from sj_lang import cli, run
from sj_lang.errors import RunFailed
from sj_lang.recipe import load

CHANGES = [*kills.KINDS["steps"], *kills.COMMON, "output=r"]


class Killed(BaseException):
    """Nothing catches it, so nothing is recorded, as after SIGKILL."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never ended."""
    folder = tmp_path_factory.mktemp("straight")
    with kills.tiny.offered(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sj_lang.report.figures._save", kills.undrawn)
        kills.begin(write_recipe(folder), CHANGES)
    return folder / "r"


@pytest.fixture(scope="module")
def expected(straight: Path) -> dict[str, object]:
    return kills.outcome(straight)


@pytest.mark.parametrize(
    "file",
    [
        "r/recipe.yaml.part",
        "r/manifest.json.part",
        "r/unfinished/checkpoint-2/checksums.json.part",
        "r/unfinished/checkpoint-4",
        "r/model/config.json",
        "r/sample.txt",
        "r/report.html.part",
    ],
)
def test_killed_at(file: str, expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(number: int, path: str) -> None:
        if path == str(tmp_path / file):
            raise Killed

    monkeypatch.setattr("sj_lang.report.figures._save", kills.undrawn)
    recipe = write_recipe(tmp_path)
    with kills.at_each_operation(tmp_path / "r", kill), pytest.raises(Killed):
        kills.begin(recipe, CHANGES)
    kills.go_on(recipe, CHANGES)
    assert kills.outcome(tmp_path / "r") == expected


def test_a_series_goes_on_without_a_run_whose_folder_is_damaged(tmp_path: Path) -> None:
    recipe = load(write_recipe(tmp_path, "seeds: [1, 2]\n"), [*kills.COMMON, "train.max_steps=2", "output=s"])

    def kill(number: int, path: str) -> None:
        if path == str(tmp_path / "s/seed-1/model/config.json"):
            raise Killed

    with kills.at_each_operation(tmp_path / "s", kill), pytest.raises(Killed):
        run.execute(recipe)
    (tmp_path / "s/seed-1/manifest.json").write_text("")
    with pytest.raises(RunFailed, match=r"1 of 2 runs failed:\nseed-1: .*manifest\.json cannot be read"):
        run.execute(load("s/recipe.yaml"), resume="s")
    assert (tmp_path / "s/seed-2/report.html").exists()
    (tmp_path / "s/seed-2/metrics.json").write_text('{"test.loss": "x"}')
    with pytest.raises(RunFailed, match=r"2 of 2 runs failed:(.|\n)*seed-2: .*test\.loss is x; expected a number"):
        run.execute(load("s/recipe.yaml"), resume="s")


@pytest.mark.parametrize(
    "words", [["eval", "r"], ["report", "r"], ["push", "r", "--dry-run"]], ids=lambda words: words[0]
)
def test_a_command_that_is_killed_leaves_the_run_whole(words: list[str], straight: Path, tmp_path: Path) -> None:
    root, number = tmp_path / "r", 0
    before = kills.content(straight)

    def kill_at(place: int) -> Callable[[int, str], None]:
        def act(operation: int, path: str) -> None:
            nonlocal number
            number = operation
            if operation == place:
                raise Killed

        return act

    shutil.copytree(straight, root)
    with kills.at_each_operation(root, kill_at(0)):
        assert cli.main(words) == 0
    after, operations = kills.content(root), number
    for place in {min(1, operations), operations} - {0}:  # none if nothing is written there
        shutil.rmtree(root)
        shutil.copytree(straight, root)
        with kills.at_each_operation(root, kill_at(place)), pytest.raises(Killed):
            cli.main(words)
        left = kills.content(root)
        torn = [name for name, data in before.items() if left.get(name) not in (data, after.get(name))]
        assert not torn
        assert cli.main(words) == 0
        assert kills.content(root) == after


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", kills.KINDS)
def test_at_every_operation(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, kills.__file__, str(tmp_path), kind, "1", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
