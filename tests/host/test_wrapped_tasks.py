"""A task that wraps another one, laid over a recipe: it takes the recipe's own,
and hands on what is meant for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sound_recipe import SOUND, refused
from toy import ToyTask

from sj_lang import recipe
from sj_lang.component.schema import Part
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.plugins import Plugin, Registry

Write = Callable[..., str]
AnyTask = Part["task"]


class Taught(ToyTask):
    """Wraps a task; both have a `length`."""

    def __init__(self, *, task: AnyTask, teacher: str, alpha: float = 0.5, length: int = 8) -> None:  # type: ignore[valid-type]
        self.task, self.teacher, self.alpha = task, teacher, alpha


class Offers:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        register.task("taught", f"{__name__}:Taught", summary="a task with a teacher")


@pytest.fixture(autouse=True)
def _offered(toy: Registry) -> None:
    toy.add(Offers(), Plugin("taught", __name__, "sj-lang-taught", "1.0"))


WHOLE = {"type": "toy_task", "data": "poem", "length": 32, "split": None}
TAUGHT = "\n  taught: {task: {type: taught, teacher: there}}\n"
RUNS = SOUND + "runs:\n  plain: {}" + TAUGHT


def tasks(*arguments: Any) -> dict[str, Any]:
    return {name: child.task for name, child in recipe.load(*arguments).children()}


def test_a_run_wraps_the_recipes_task(write: Write) -> None:
    both = tasks(write(RUNS))
    assert both["plain"] == WHOLE
    assert both["taught"] == {"type": "taught", "task": WHOLE, "teacher": "there", "alpha": 0.5, "length": 8}
    assert recipe.load(write(RUNS)).notes == [], "nothing is dropped"


def test_so_do_the_command_line_and_a_recipe_over_its_base(write: Write) -> None:
    write()
    loaded = recipe.load("r.yaml", ["task={type: taught, teacher: there}"])
    based = recipe.load(write("recipe: 1\nbase: r.yaml\ntask: {type: taught, teacher: there}\n", "based.yaml"))
    assert loaded.task == based.task == tasks(write(RUNS))["taught"]
    assert loaded.notes == based.notes == []


def test_a_wrapper_that_names_its_task_takes_that_one(write: Write) -> None:
    loaded = recipe.load(write(), ["task={type: taught, teacher: there, task: {type: toy_task, data: .}}"])
    assert loaded.task["task"] == {**WHOLE, "data": ".", "length": 64}
    assert loaded.notes == ["task: type is now taught; the arguments of toy_task are dropped: data, length"]


def test_the_wrapper_by_its_name_alone(write: Write) -> None:
    loaded = recipe.load(write(), ["task=taught", "task.teacher=x", "task.data=."])
    assert loaded.task["task"] == {**WHOLE, "data": "."}
    assert (loaded.task["teacher"], loaded.task["length"]) == ("x", 8)


def test_keys_of_the_wrapped_task_are_handed_on(write: Write) -> None:
    both = tasks(write(RUNS), ["task.data=."])
    assert both["plain"]["data"] == both["taught"]["task"]["data"] == "."
    write(recipe.load(write(), ["task=taught", "task.teacher=x"]).dump_yaml(), "wrapped.yaml")
    in_full, short = (recipe.load("wrapped.yaml", [f"{key}.split=[1, 0, 0]"]).task for key in ("task.task", "task"))
    assert in_full == short
    assert short["task"] == {**WHOLE, "split": [1.0, 0.0, 0.0]}
    # the recipe's own task wraps nothing
    lines = refused(write(RUNS), ["task.task.split=[1, 0, 0]"])
    assert any(line.startswith("command line 'task.task.split=[1, 0, 0]'  task.task: unknown key") for line in lines)


def test_a_key_of_both_is_the_wrappers(write: Write) -> None:
    wrapped = recipe.load(write(), ["task=taught", "task.teacher=x"])
    write(wrapped.dump_yaml(), "wrapped.yaml")
    again = recipe.load("wrapped.yaml", ["task.length=5"]).task
    assert (again["length"], again["task"]["length"]) == (5, 32)
    both = tasks(write(RUNS), ["runs.taught.task.task.length=5"])
    assert (both["taught"]["length"], both["taught"]["task"]["length"]) == (8, 5)


def test_the_command_line_beats_runs(write: Write) -> None:
    text = RUNS.replace("teacher: there", "teacher: there, data: poem, alpha: 0.1")
    assert tasks(write(text))["taught"]["task"]["data"] == "poem"
    both = tasks(write(text), ["task.data=.", "runs.taught.task.alpha=0.9"])
    assert (both["taught"]["task"]["data"], both["taught"]["alpha"]) == (".", 0.9)
    both = tasks(write(text), ["runs.taught.task.data=hub:a/b"])
    assert (both["plain"]["data"], both["taught"]["task"]["data"]) == ("poem", "hub:a/b")


@pytest.mark.parametrize("value", ["3", "", "[a]"])
def test_what_is_no_task_inside_is_refused(write: Write, value: str) -> None:
    write(recipe.load(write(), ["task=taught", "task.teacher=x"]).dump_yaml(), "wrapped.yaml")
    for changes in ([f"task.task={value}"], [f"task.task={value}", "task.data=."]):
        assert any("task.task: expected a task" in line for line in refused("wrapped.yaml", changes))
        assert any("task.task: expected a task" in line for line in refused(write(), ["task=taught", *changes]))


def test_mistakes_are_told_at_their_place(write: Write) -> None:
    text = RUNS.replace("length: 32", "lenth: 32").replace("teacher: there", "teacher: there, alpha: a, data: 3")
    lines = refused(write(text), ["task.split=x"])
    expected = [
        "r.yaml:8:3  task.lenth: unknown key; did you mean 'length'?",
        "r.yaml:8:3  task.task.lenth: unknown key; did you mean 'length'?",
        "r.yaml:26:49  runs.taught.task.alpha: expected a number, found 'a' (text)",
        "r.yaml:26:59  runs.taught.task.task.data: expected a registered source",
        "command line 'task.split=x'  task.split: expected a list",
        "command line 'task.split=x'  task.task.split: expected a list",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line


def test_a_wrapper_with_nothing_inside(write: Write) -> None:
    (line,) = refused(write(SOUND.replace("type: toy_task\n  data: poem\n  length: 32", "type: taught\n  teacher: x")))
    assert line.endswith("task.task: missing; expected a task (a name, or type: and arguments)")


def test_another_task_in_the_place_of_a_wrapper_drops_it_with_a_note(write: Write) -> None:
    write(
        SOUND.replace(
            "  type: toy_task\n", "  type: taught\n  teacher: x\n  task: {type: toy_task, data: poem}\n"
        ).replace("  data: poem\n", "", 1)
    )
    loaded = recipe.load("r.yaml", ["task={type: toy_task, data: .}"])
    assert loaded.task == {**WHOLE, "data": ".", "length": 64}
    assert loaded.notes == ["task: type is now toy_task; the arguments of taught are dropped: teacher, task, length"]


def test_the_resolved_recipe_means_the_same(write: Write) -> None:
    loaded = recipe.load(write(RUNS), ["task.data=."])
    write(loaded.dump_yaml(), "copy.yaml")
    assert recipe.load("copy.yaml").dump_yaml() == loaded.dump_yaml()
