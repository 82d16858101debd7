"""`sj-lang new`: what it writes, and what it refuses."""

import ast
import os
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from environments import make_environment

from sj_lang import cli, plugins, recipe, run
from sj_lang.commands import new
from sj_lang.errors import UserError


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> text, of every file but what Python and pip leave behind."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


def test_the_example_is_the_template(tmp_path: Path) -> None:
    assert tree(new.create(new.EXAMPLE, tmp_path / "x")) == tree(new.TEMPLATE)


@pytest.mark.parametrize("name", ["fast-lif", "fast_lif", "sj-lang-fast-lif"])
def test_one_name_in_its_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new.create(name)
    assert folder == Path("sj-lang-fast-lif")
    written = tree(folder)
    assert not [path for path, text in written.items() if new.EXAMPLE in (path + text).lower()]
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["name"] == "sj-lang-fast-lif"
    assert project["entry-points"]["sj_lang"] == {"fast_lif": "sj_lang_fast_lif.plugin"}
    assert "class FastLif(Node):" in written["sj_lang_fast_lif/neuron.py"]
    assert "recipes/fast_lif/quickstart.yaml" in "\n".join(written)
    for path, text in written.items():
        if path.endswith(".py"):
            ast.parse(text)
    assert os.listdir(tmp_path) == ["sj-lang-fast-lif"]  # nothing else is left behind


def test_a_name_that_holds_the_example(tmp_path: Path) -> None:
    written = tree(new.create("remember", tmp_path / "x"))
    assert "class Remember(Node):" in written["sj_lang_remember/neuron.py"]


@pytest.mark.parametrize("name", ["", "Fast", "9a", "a b", "a/b", "..", "a__b", "_a", "a_", "ü", "a" * 41, "a\n"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a plugin: use at most 40 small letters"):
        new.create(name, tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["lambda", "match"])
def test_words_of_python(name: str) -> None:
    with pytest.raises(UserError, match="a Python keyword"):
        new.checked(name)


def test_a_neuron_that_exists() -> None:
    with pytest.raises(UserError, match=r"there is a neuron 'lif' already, from sj-lang \d"):
        new.checked("lif")


def test_a_distribution_that_exists() -> None:
    with pytest.raises(UserError, match="sj-lang-neurons is installed already"):
        new.checked("neurons")


@pytest.mark.parametrize("answer", [None, "", "n", "y"])
def test_two_words_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str | None
) -> None:
    """Without a terminal there is nobody to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", lambda prompt: print(prompt) or answer)
    code = cli.main(["new", "my", "neuron"])
    out, err = capsys.readouterr()
    assert ("Write the plugin 'my' into the folder 'neuron'?" in out) == (answer is not None)
    if answer == "y":
        assert (code, os.listdir(tmp_path)) == (0, ["neuron"])
        return
    assert (code, os.listdir(tmp_path)) == (2, [])
    assert "sj-lang new my-neuron; for a folder: sj-lang new my ./neuron" in err
    assert "sj-lang new my --kind neuron" in err


def test_a_path_is_a_folder_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "my", "./neuron"]) == 0
    assert os.listdir(tmp_path) == ["neuron"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists already"):
        new.create("resonate", target)
    assert os.listdir(tmp_path) == ["x"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/x"):
        new.create("resonate", tmp_path / "file" / "x")


@pytest.mark.parametrize("kind", [kind for kind in new.KINDS if kind != "neuron"])
def test_a_component_of_each_kind_passes_its_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What is written registers, passes the test that comes with it, and has a valid recipe."""
    pytest.importorskip("sj_lang_language")
    name = f"fresh_{kind}"
    written = tree(new.create(name, tmp_path / "x", kind))
    assert not [path for path, text in written.items() if "neuron.py" in path + text or new.EXAMPLE in text.lower()]
    monkeypatch.syspath_prepend(tmp_path / "x")
    registry = plugins.Registry()
    for entry in entry_points(group=plugins.GROUP):
        registry.load(entry)
    registry.load(EntryPoint(name, f"sj_lang_{name}.plugin", plugins.GROUP))
    assert registry.broken() == []
    with plugins.use(registry):
        test: dict[str, Any] = {}
        exec(written[f"tests/test_{name}.py"], test)
        test[f"test_{name}"]()
        quickstart = recipe.load(f"{name}/quickstart")
        assert "runs" not in quickstart.resolved()
        if kind in ("model", "task"):
            assert run.execute(quickstart, dry_run=True) == 0
        with pytest.raises(UserError, match=f"there is an? {kind} '{name}' already"):
            new.checked(name, kind)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_installs_and_runs_as_it_is(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, editable=True)
    environment.run("python", "-m", "sj_lang", "new", "resonate")
    plugin = environment.work / "sj-lang-resonate"
    environment.install("--editable", plugin)
    assert "resonate" in environment.run("python", "-m", "sj_lang", "plugins", "neuron")
    environment.run("python", "-m", "pytest", "-q", plugin)
    environment.run("python", "-m", "sj_lang", "run", "resonate/quickstart", "output=out")
    assert list((environment.work / "out").rglob("metrics.json"))
