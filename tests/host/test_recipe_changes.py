"""Laying values over a recipe: from a base, from the command line, from runs and seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sound_recipe import SOUND, refused

from sj_lang import recipe
from sj_lang.errors import UserError
from sj_lang.plugins import Registry
from sj_lang.recipe import files

Write = Callable[..., str]
pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize(
    ("change", "section", "key", "value"),
    [
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.bf16=true", "train", "bf16", True),
        ("task.data=hub:a/b", "task", "data", "hub:a/b"),
        ("generate.prompt=ROMEO: hi #1", "generate", "prompt", "ROMEO: hi #1"),
        ("generate.prompt=", "generate", "prompt", None),
        ("task.split=[.9, 0, .1]", "task", "split", [0.9, 0.0, 0.1]),
        ("train.optim_target_modules=[a, b]", "train", "optim_target_modules", ["a", "b"]),
    ],
)
def test_changes_are_typed_as_in_yaml(write: Write, change: str, section: str, key: str, value: Any) -> None:
    assert getattr(recipe.load(write(), [change]), section)[key] == value


def test_a_new_type_drops_the_old_arguments_with_a_note(write: Write) -> None:
    loaded = recipe.load(write(), ["model.neuron.type=toy_delay"])
    assert loaded.model["neuron"] == {"type": "toy_delay", "delays": 2, "direction": "forward"}
    assert loaded.notes == ["model.neuron: type is now toy_delay; the arguments of toy_lif are dropped: tau"]
    assert recipe.load(write(), ["model.neuron=toy_delay"]).notes == loaded.notes


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_on_the_command_line_does_not_matter(write: Write, order: int) -> None:
    changes = ["model.neuron=toy_delay", "model.neuron.delays=5"][::order]
    assert recipe.load(write(), changes).model["neuron"]["delays"] == 5


def test_the_same_type_keeps_the_arguments(write: Write) -> None:
    loaded = recipe.load(write(), ["model.neuron=toy_lif", "model.neuron.v_threshold=.5"])
    assert (loaded.model["neuron"]["tau"], loaded.model["neuron"]["v_threshold"]) == (4.0, 0.5)
    assert loaded.notes == []


def test_arguments_reach_a_component_written_as_a_name_or_not_at_all(write: Write) -> None:
    loaded = recipe.load(write(), ["tokenizer.lowercase=true", "model.attention.norm.eps=1e-3"])
    assert loaded.tokenizer == {"type": "letters", "lowercase": True}
    assert loaded.model["attention"]["norm"] == {"type": "centre", "eps": 1e-3}


def test_an_item_of_a_list(write: Write) -> None:
    text = SOUND.replace("  length: 32\n", "  length: 32\n  split: [0.9, 0.05, 0.05]\n")
    assert recipe.load(write(text), ["task.split.0=.5"]).task["split"] == [0.5, 0.05, 0.05]
    assert "task.split.7: the list has 3 items, from 0" in refused(write(text), ["task.split.7=1"])[0]
    assert (
        "command line 'task.split.1=x'  task.split.1: expected a number" in refused(write(text), ["task.split.1=x"])[0]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["seed"], "command line 'seed'  expected key=value, such as train.learning_rate=3e-4"),
        (["=3"], "expected key=value"),
        (["train..x=3"], "expected key=value"),
        (["train.label_names=[1"], "not valid YAML"),
        (["seed=1", "seed=2"], "command line 'seed=2'  seed: is given twice"),
        (["seed=1", "seed.x=2"], "'seed' is given as a value and as a section"),
        (["seed.x=2"], "seed: expected a whole number >= 0"),
    ],
)
def test_changes_that_are_none(write: Write, changes: list[str], message: str) -> None:
    assert message in refused(write(), changes)[0]


def test_base(write: Write) -> None:
    write(SOUND, "parts/first.yaml")
    write("base: first.yaml\nrecipe: 1\nmodel: {neuron: {tau: 5}, dropout: 0.3}\n", "parts/second.yaml")
    write("base: parts/second.yaml\nrecipe: 1\nname: third\nmodel: {neuron: toy_delay}\n", "third.yaml")
    second, third = recipe.load("parts/second.yaml"), recipe.load("third.yaml")
    assert (second.name, second.summary, second.seed) == ("second", "", 3)
    assert second.model["neuron"]["tau"] == 5.0
    assert (third.model["dropout"], third.model["neuron"]["type"]) == (0.3, "toy_delay")
    assert third.notes == ["model.neuron: type is now toy_delay; the arguments of toy_lif are dropped: tau"]
    assert "base" not in third.resolved()


def test_what_an_installed_recipe_drops_of_its_base_is_no_news(toy: Registry, write: Write) -> None:
    write(SOUND, "parts/first.yaml")
    runs = "runs: {a: {tokenizer: letters}, b: {model.neuron: toy_lif}}\n"
    delay = "model: {neuron: {type: toy_delay, delays: 4}}\n"
    second = write("base: first.yaml\nrecipe: 1\n" + delay + runs, "parts/b.yaml")
    assert len(recipe.load(second).notes) == 2
    toy._recipes["lm/second"] = [(toy.plugins[0], Path(second))]
    assert recipe.load("lm/second").notes == recipe.load(second).notes == []
    dropped = "model.neuron: type is now toy_lif; the arguments of toy_delay are dropped: delays"
    assert recipe.load("lm/second", ["runs=", "model.neuron=toy_lif"]).notes == [dropped]
    assert recipe.load(write("base: lm/second\nrecipe: 1\nruns:\nmodel: {neuron: toy_lif}\n")).notes == [dropped]


def test_a_problem_of_the_base_is_told_with_the_bases_place(write: Write) -> None:
    write(SOUND.replace("tau: 4.0", "tua: 4.0"), "first.yaml")
    write("base: first.yaml\nrecipe: 1\nmodel: {drop: 1}\n")
    lines = refused("r.yaml")
    assert lines[0].startswith("first.yaml:15:5  model.neuron.tua: unknown key; did you mean 'tau'?")
    assert lines[1].startswith("r.yaml:3:9  model.drop: unknown key; did you mean 'dropout'?")


def test_bases_that_are_none(write: Write) -> None:
    write("base: b.yaml\nrecipe: 1\n", "a.yaml")
    write("base: a.yaml\nrecipe: 1\n", "b.yaml")
    assert refused("a.yaml") == ["b.yaml:1:1  base: a recipe cannot be its own base: a.yaml -> b.yaml -> a.yaml"]
    assert refused(write("base: c.yaml\nrecipe: 1\n"))[0].startswith("r.yaml:1:1  base: no file c.yaml")
    assert refused(write("base: [a, b]\n")) == [
        "r.yaml:1:1  base: expected the name or path of one recipe, found ['a', 'b']"
    ]


RUNS = (
    SOUND + "runs:\n  plain:\n  twin: {model.twin: true, train: {max_steps: 7}}\n  far:\n    model.neuron: toy_delay\n"
)


def test_runs_are_the_recipe_with_their_changes(write: Write) -> None:
    loaded = recipe.load(write(RUNS))
    children = dict(loaded.children())
    assert list(children) == ["plain", "twin", "far"]
    assert [child.model["twin"] for child in children.values()] == [False, True, False]
    assert [child.train["max_steps"] for child in children.values()] == [10, 7, 10]
    assert children["far"].model["neuron"]["type"] == "toy_delay"
    assert (children["far"].name, children["far"].output, children["far"].seed) == ("sound/far", "runs/sound/far", 3)
    assert loaded.notes == ["model.neuron: type is now toy_delay; the arguments of toy_lif are dropped: tau"]
    assert not children["far"].is_series


def test_the_command_line_wins_over_runs_and_can_name_one(write: Write) -> None:
    children = dict(recipe.load(write(RUNS), ["train.max_steps=2", "runs.twin.seed=9", "output=here"]).children())
    assert [child.train["max_steps"] for child in children.values()] == [2, 2, 2]
    assert [child.seed for child in children.values()] == [3, 9, 3]
    assert children["twin"].output == "here/twin"
    assert recipe.load(write(RUNS), ["runs="]).children() == []
    assert dict(recipe.load(write(RUNS), ["runs.twin.train.max_steps=4"]).children())["twin"].train["max_steps"] == 4


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("common", "named", "expected"),
    [
        ("train.max_steps=2", "runs.twin.train.max_steps=4", [2, 4, 2]),
        ("seed=5", "runs.twin.seed=4", [5, 4, 5]),
        ("summary=all", "runs.twin.summary=one", ["all", "one", "all"]),
        ("model.neuron=toy_delay", "runs.twin.model.neuron=toy_lif", ["toy_delay", "toy_lif", "toy_delay"]),
        ("model.neuron.tau=7", "runs.twin.model.neuron.tau=9", [7.0, 9.0, 7.0]),
        ("generate.max_new_tokens=3", "runs.twin.generate.max_new_tokens=null", [3, None, 3]),
    ],
)
def test_a_change_of_one_run_wins_over_one_of_all(
    write: Write, common: str, named: str, expected: list[Any], order: int
) -> None:
    text = RUNS.replace("    model.neuron: toy_delay\n", "    train.bf16: true\n")
    children = dict(recipe.load(write(text), [common, named][::order]).children())
    found: list[Any] = []
    for child in children.values():
        value: Any = child.resolved()
        for key in common.partition("=")[0].split("."):
            value = value.get(key)
        found.append(value["type"] if isinstance(value, dict) else value)
    assert found == expected


def test_runs_given_as_a_mapping_on_the_command_line(write: Write) -> None:
    loaded = recipe.load(write(RUNS), ["runs={twin: null, far: {train: {max_steps: 7}}}"])
    assert [name for name, _ in loaded.children()] == ["plain", "far"]
    problem = refused(write(RUNS), ["runs={twn: null}"])[0]
    assert problem.startswith("command line 'runs={twn: null}'  runs.twn: no such run; did you mean 'twin'?")


def test_null_drops_a_run(write: Write) -> None:
    assert [name for name, _ in recipe.load(write(RUNS), ["runs.twin=null"]).children()] == ["plain", "far"]
    write(RUNS, "first.yaml")
    loaded = recipe.load(write("base: first.yaml\nrecipe: 1\nruns: {plain: , twin: null, new: }\n"), ["runs.new="])
    assert [name for name, _ in loaded.children()] == ["far"]
    none = ["runs.plain=", "runs.twin=", "runs.far="]
    assert "runs: is empty; name at least one run" in refused(write(RUNS), none)[0]
    assert refused(write(RUNS), ["runs.twn=null"]) == [
        "command line 'runs.twn=null'  runs.twn: no such run; did you mean 'twin'? valid: far, plain, twin"
    ]


def test_in_a_list_no_run_can_be_changed_alone(write: Write) -> None:
    write(SOUND, "one.yaml")
    listed = write("recipe: 1\nname: all\nruns: [one.yaml]\n", "all.yaml")
    for change in ("runs.one.seed=1", "runs.one=null"):
        (line,) = refused(listed, [change])
        assert line == f"command line '{change}'  runs: is a list of recipes here, in which no run can be changed alone"
    write(SOUND, "two.yaml")
    children = dict(recipe.load(listed, ["runs.0=two.yaml", "train.max_steps=3"]).children())
    assert {name: child.train["max_steps"] for name, child in children.items()} == {"two": 3}


def test_a_new_type_drops_the_old_arguments_of_a_run_of_the_base_too(write: Write) -> None:
    write(SOUND + "runs: {a: {model.neuron: {type: toy_delay, delays: 4}}}\n", "first.yaml")
    loaded = recipe.load(write("base: first.yaml\nrecipe: 1\nruns: {a: {model: {neuron: toy_lif}}}\n"))
    ((_, child),) = loaded.children()
    assert child.model["neuron"]["tau"] == 4.0
    assert loaded.notes == ["runs.a.model.neuron: type is now toy_lif; the arguments of toy_delay are dropped: delays"]


def test_seeds_make_runs(write: Write) -> None:
    names = [(name, child.seed) for name, child in recipe.load(write(SOUND + "seeds: [5, 6]\n")).children()]
    assert names == [("seed-5", 5), ("seed-6", 6)]
    both = recipe.load(write(RUNS), ["seeds=[5, 6]"])
    assert [name for name, _ in both.children()][:3] == ["plain/seed-5", "plain/seed-6", "twin/seed-5"]
    assert both.children()[3][1].output == "runs/sound/twin/seed-6"


def test_runs_may_be_a_list_of_recipes(write: Write) -> None:
    write(SOUND, "inner/one.yaml")
    write(RUNS, "inner/two.yaml")
    listed = recipe.load(write("recipe: 1\nname: all\nruns: [inner/one.yaml, inner/two.yaml]\n"), ["train.max_steps=3"])
    children = dict(listed.children())
    assert list(children) == ["one", "two/plain", "two/twin", "two/far"]
    assert {child.train["max_steps"] for child in children.values()} == {3}
    assert children["two/twin"].output == "runs/all/two/twin"
    assert children["one"].summary == "A recipe of toys."


def test_seeds_beside_a_list_stand_in_the_place_of_those_inside(write: Write) -> None:
    write(SOUND, "one.yaml")
    write(RUNS + "seeds: [0, 1, 2]\n", "two.yaml")
    listed = write("recipe: 1\nname: all\nruns: [one.yaml, two.yaml]\n", "all.yaml")
    assert [name for name, _ in recipe.load(listed).children()][:4] == [
        "one",
        *(f"two/plain/seed-{n}" for n in (0, 1, 2)),
    ]
    chosen = [(name, child.seed) for name, child in recipe.load(listed, ["seeds=[7]"]).children()]
    assert chosen == [(f"{name}/seed-7", 7) for name in ("one", "two/plain", "two/twin", "two/far")]
    written = recipe.load(write("recipe: 1\nname: all\nseeds: [7]\nruns: [one.yaml, two.yaml]\n", "seven.yaml"))
    assert [(name, child.seed) for name, child in written.children()] == chosen
    assert "two/plain" in dict(recipe.load(listed, ["seeds=null"]).children())
    assert len(refused(listed, ["seeds=[1, x]"])) == 1


@pytest.mark.parametrize("changes", [[], ["seeds=[1, 2]"]])
def test_the_resolved_series_loads_and_is_the_same(write: Write, changes: list[str]) -> None:
    write(SOUND, "one.yaml")
    for text in (RUNS, SOUND + "seeds: [5]\n", "recipe: 1\nname: all\nruns: [one.yaml]\n"):
        loaded = recipe.load(write(text), changes)
        write(loaded.dump_yaml(), "copy.yaml")
        again = recipe.load("copy.yaml")
        assert again.dump_yaml() == loaded.dump_yaml()
        assert [(n, c.resolved()) for n, c in again.children()] == [(n, c.resolved()) for n, c in loaded.children()]


def test_a_child_is_a_recipe_of_its_own(write: Write) -> None:
    for name, child in recipe.load(write(RUNS), ["seeds=[1]"]).children():
        again = recipe.load(write(child.dump_yaml(), "child.yaml"))
        assert again.resolved() == child.resolved()
        assert again.name == f"sound/{name}"


def test_mistakes_in_runs_are_told_where_they_stand_and_once(write: Write) -> None:
    text = RUNS.replace("model.twin: true", "modle.twin: true, model.neuron.tua: 1, name: x").replace(
        "length: 32", "lenth: 32"
    )
    lines = refused(write(text + "  bad/../name: {}\n  worse: 3\n  ''  : {}\n"))
    expected = [
        "r.yaml:8:3  task.lenth: unknown key; did you mean 'length'?",
        "r.yaml:26:10  runs.twin.modle: unknown key; did you mean 'model'?",
        "r.yaml:26:28  runs.twin.model.neuron.tua: unknown key; did you mean 'tau'?",
        "r.yaml:26:49  runs.twin.name: belongs to the whole series, a run cannot set it",
        "r.yaml:29:3  runs.bad/../name: expected letters, digits",
        "r.yaml:30:3  runs.worse: expected changes to the recipe, found 3 (a whole number)",
        "r.yaml:31:3  runs.: expected letters, digits",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOUND + "runs: {}\n", "runs: is empty; name at least one run"),
        ("recipe: 1\nruns: []\n", "runs: the list is empty"),
        ("recipe: 1\nruns: [r.yaml]\n", "runs.0: a series cannot contain itself"),
        ("recipe: 1\nruns: [3]\n", "runs.0: expected the name or path of a recipe, found 3"),
        ("recipe: 1\nruns: [nowhere.yaml]\n", "runs.0: no file nowhere.yaml"),
        ("recipe: 1\nruns: [one.yaml]\ntrain: {}\n", "train: has no effect beside a list of recipes"),
        ("recipe: 1\nruns: [one.yaml, one.yaml]\n", "runs: two runs are called 'one'"),
        (SOUND + "runs: {a: {model.twin: true, model: {twin: false}}}\n", "runs.a.model.twin: is given twice"),
    ],
)
def test_wrong_runs(write: Write, text: str, message: str) -> None:
    write(SOUND, "one.yaml")
    (line,) = refused(write(text))
    assert message in line


def test_copy_keeps_the_text_and_finds_the_base(write: Write) -> None:
    write(SOUND, "parts/first.yaml")
    write("# mine\nbase: first.yaml  # the first\nrecipe: 1\n", "parts/second.yaml")
    with pytest.raises(UserError, match=r"^no folder own; make it first"):
        files.copy("parts/second.yaml", "own/")
    Path("own").mkdir()
    copy = files.copy("parts/second.yaml", "own/")
    assert copy == Path("own/second.yaml")
    assert copy.read_text().startswith("# mine\nbase: /")
    assert recipe.load(str(copy)).model == recipe.load("parts/second.yaml").model
    with pytest.raises(UserError, match=r"own/second\.yaml already exists"):
        files.copy("parts/second.yaml", "own")
    files.copy("parts/first.yaml", "own/name.yaml")
    assert Path("own/name.yaml").read_text(encoding="utf-8") == SOUND
    with pytest.raises(UserError, match=r"^no folder new/deep; make it first"):
        files.copy("parts/first.yaml", "new/deep/name.yaml")
    assert not Path("new").exists()
    with pytest.raises(UserError, match=r"^no folder parts/first\.yaml; make it first"):
        files.copy("parts/first.yaml", "parts/first.yaml/x")
