"""`run:NAME` in a task: the folder of an earlier run of the same series and seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny import write_recipe
from tiny_task import TinyText

from sj_lang import cli, run
from sj_lang.errors import UserError
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.manifest import read_json
from sj_lang.plugins import Plugin
from sj_lang.recipe import load
from sj_lang.recipe.loading import Recipe
from sj_lang.run.series import linked
from sj_lang.task import Prepared


class Pupil(TinyText):
    """Reads where another run lies, and is prepared with it."""

    def __init__(self, *, teacher: str = "", places: list[str] | None = None, windows: int = 48) -> None:
        super().__init__(windows=windows)
        self.teacher, self.places = teacher, places

    def prepare(self, tokenizer: Any, *, seed: int) -> Prepared:
        prepared = super().prepare(tokenizer, seed=seed)
        # as a distillation's teacher, it is looked at when the run starts
        prepared.objective = self._trained
        return prepared

    def _trained(self, model: Any) -> None:
        assert (Path(self.teacher) / "model" / "config.json").is_file(), f"{self.teacher} is not trained yet"


class Offers:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        register.task("pupil", f"{__name__}:Pupil", summary="for tests")


@pytest.fixture(autouse=True)
def _offered(_components: None) -> Iterator[None]:
    with tiny.offered() as registry:
        registry.add(Offers(), Plugin("pupil", __name__, "pupil-test", "0"))
        yield


RUNS = """\
runs:
  first: {}
  second: {task: {type: pupil, teacher: run:first}}
"""
SHORT = ["train.max_steps=2", "train.eval_steps=2", "output=s"]


def teachers(recipe: Recipe) -> dict[str, str]:
    runs = linked(dict(recipe.children()))
    return {name: child.task["teacher"] for name, child in runs.items() if child.task["type"] == "pupil"}


def test_a_run_trains_with_the_folder_of_the_one_before(tmp_path: Path) -> None:
    assert run.execute(load(write_recipe(tmp_path, RUNS), SHORT)) == 0
    assert list(read_json(tmp_path / "s/metrics.json")) == ["first", "second"]
    assert load("s/second/recipe.yaml").task["teacher"] == "s/first"
    assert dict(load("s/recipe.yaml").children())["second"].task["teacher"] == "run:first"
    assert run.execute(load("s/recipe.yaml"), resume="s") == 0


def test_with_seeds_it_is_the_run_of_the_same_seed(tmp_path: Path) -> None:
    recipe = load(write_recipe(tmp_path, RUNS), ["seeds=[4, 5]", "output=s"])
    assert teachers(recipe) == {"second/seed-4": "s/first/seed-4", "second/seed-5": "s/first/seed-5"}
    assert run.execute(recipe, dry_run=True) == 0


@pytest.mark.parametrize("seeds", ["", "seeds: [4]\n"])
def test_in_a_list_of_series_it_is_a_run_of_its_own_series(tmp_path: Path, seeds: str) -> None:
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(Path(write_recipe(tmp_path, RUNS + seeds)).read_text(encoding="utf-8"))
    Path("both.yaml").write_text("recipe: 1\nname: both\nruns: [one.yaml, two.yaml]\n")
    seed = "/seed-4" if seeds else ""
    recipe = load("both.yaml", ["output=s"])
    assert teachers(recipe) == {f"{name}/second{seed}": f"s/{name}/first{seed}" for name in ("one", "two")}
    assert teachers(load("both.yaml", ["output=s", "seeds=[1, 2]"]))["two/second/seed-2"] == "s/two/first/seed-2"


def test_in_a_list_a_run_of_another_series_has_its_whole_name(tmp_path: Path) -> None:
    Path("one.yaml").write_text(Path(write_recipe(tmp_path, RUNS)).read_text(encoding="utf-8"))
    other = RUNS.replace("run:first", "run:one/second")
    Path("two.yaml").write_text(Path(write_recipe(tmp_path, other)).read_text(encoding="utf-8"))
    Path("both.yaml").write_text("recipe: 1\nname: both\nruns: [one.yaml, two.yaml]\n")
    assert teachers(load("both.yaml", ["output=s"])) == {"one/second": "s/one/first", "two/second": "s/one/second"}


def test_all_texts_of_a_task_are_read_lists_and_inner_ones_too(tmp_path: Path) -> None:
    places = RUNS.replace("teacher: run:first", "places: [run:first, run:first/model, ./run:first]")
    with pytest.raises(UserError, match="run:first/model names no run"):
        linked(dict(load(write_recipe(tmp_path, places), ["output=s"]).children()))
    places = places.replace("run:first/model, ", "")
    second = linked(dict(load(write_recipe(tmp_path, places), ["output=s"]).children()))["second"]
    assert second.task["places"] == ["s/first", "./run:first"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (RUNS.replace("run:first", "run:frist"), "run:frist names no run that comes before it; did you mean 'first'"),
        (RUNS.replace("run:first", "run:second"), "run:second names no run that comes before it; "),
        ("runs:\n  second: {task: {type: pupil, teacher: run:first}}\n  first: {}\n", "run:first names no run that"),
    ],
    ids=["misspelt", "itself", "a later one"],
)
def test_names_of_no_earlier_run(tmp_path: Path, runs: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^run 'second': {message}"):
        run.execute(load(write_recipe(tmp_path, runs), SHORT))
    assert cli.main(["validate", write_recipe(tmp_path, runs)]) == 2
    assert not (tmp_path / "s").exists()


def test_seeds_alone_are_runs_of_which_none_comes_before(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^run 'seed-1': run:first names no run that comes before it"):
        run.execute(load(write_recipe(tmp_path), ["seeds=[1, 2]", "task={type: pupil, teacher: 'run:first'}"]))
