"""The command line: exit codes, one message per error, and nothing heavy for help and lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sj_lang import __version__, cli, plugins
from sj_lang.errors import Interrupted, PluginError, RunFailed, UserError
from sj_lang.plugins import Plugin, Registry

Write = Callable[..., str]
Out = pytest.CaptureFixture[str]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Put a module with some functions in the place of one that a command imports."""

    def replace(name: str, **functions: Any) -> SimpleNamespace:
        module = SimpleNamespace(quiet_libraries=lambda: None, **functions)
        monkeypatch.setitem(sys.modules, f"sj_lang.{name}", module)
        monkeypatch.setattr(f"sj_lang.{name}", module, raising=False)
        return module

    return replace


QUICK = """
import io, json, sys, contextlib
from sj_lang import cli
verbs = [name for name in cli.COMMANDS if name != "bench"]
for words in [["--help"], ["--version"], ["ls"], ["plugins"], ["plugins", "--json"], ["plugins", "neuron/lif"], []] + [
    [verb, "--help"] for verb in verbs
]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = cli.main(words)
        except SystemExit as end:
            code = end.code
    assert not code and out.getvalue().strip(), words
heavy = {"torch", "transformers", "numpy", "spikingjelly", "datasets", "tokenizers"} & set(sys.modules)
print(json.dumps(sorted(heavy)))
"""


def test_help_and_lists_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_command_has_help_with_a_real_example(capsys: Out) -> None:
    for name, (_, _, example, _) in cli.COMMANDS.items():
        assert example.split()[0] == name
        if name != "bench":  # prints its own
            with pytest.raises(SystemExit) as end:
                cli.main([name, "--help"])
            assert end.value.code == 0
            assert f"example: sj-lang {example}" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sj_lang", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"sj-lang {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "error: no command 'rnu'; did you mean 'run'? valid: "),
        (["run"], "error: the following arguments are required: RECIPE; see `sj-lang run --help`"),
        (["run", "--dry-run"], "error: the following arguments are required: RECIPE; see `sj-lang run --help`"),
        (["run", "x", "--resum"], "error: '--resum' is not understood; see `sj-lang run --help`"),
        (["ls", "x"], "error: 'x' is not understood; see `sj-lang ls --help`"),
        (["run", "none.yaml"], "error: no file none.yaml; list the installed recipes"),
        (["plugins", "neurn"], "error: no such kind of component: 'neurn'; did you mean 'neuron'?"),
        (["plugins", "--arguments"], "error: --arguments needs KIND/NAME, such as neuron/dsn"),
        (["plugins", "neuron/toy_lfi"], "error: no neuron 'toy_lfi'; did you mean 'toy_lif'"),
    ],
)
def test_usage_errors_are_one_message_and_exit_2(toy: Registry, capsys: Out, words: list[str], message: str) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunFailed("the loss is not a number"), 1, "error: the loss is not a number"),
        (UserError("no data"), 2, "error: no data"),
        (PluginError("no plugin"), 3, "error: no plugin"),
        (Interrupted("saved"), 143, "error: saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("by zero"), 1, "error: unexpected ZeroDivisionError: by zero (--debug shows where)"),
    ],
)
def test_exit_codes(
    toy: Registry,
    write: Write,
    capsys: Out,
    stand_in: Callable[..., Any],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def execute(recipe: Any, **options: Any) -> int:
        raise error

    stand_in("run", execute=execute)
    assert cli.main(["run", write()]) == code
    captured = capsys.readouterr()
    assert captured.err == message + "\n"
    assert cli.main(["run", write(), "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_resumed_run_knows_its_recipe(
    toy: Registry, write: Write, capsys: Out, stand_in: Callable[..., Any], tmp_path: Path
) -> None:
    calls = []
    stand_in("run", execute=lambda recipe, **options: calls.append((recipe, options["resume"])) or 0)
    run = Path(write(name="recipe.yaml")).absolute().parent
    assert cli.main(["run", "--resume", str(run)]) == 0
    assert cli.main(["run", "--resume", str(run), write(name="other.yaml"), "seed=8"]) == 0
    assert [(one.path.name, resume) for one, resume in calls] == [("recipe.yaml", str(run)), ("other.yaml", str(run))]
    assert calls[1][0].seed == 8
    assert cli.main(["run", "--resume", str(run / "none")]) == 2
    assert capsys.readouterr().err == f"error: --resume: {run / 'none'} is not a run folder (it has no recipe.yaml)\n"


def test_run_hands_everything_on(toy: Registry, write: Write, capsys: Out, stand_in: Callable[..., Any]) -> None:
    calls = []
    stand_in("run", execute=lambda recipe, **options: calls.append((recipe, options)) or 0)
    words = ["run", write(), "train.max_steps=3", "--dry-run", "model.neuron=toy_delay", "--resume", "runs/x", "seed=8"]
    assert cli.main(words) == 0
    ((recipe, options),) = calls
    assert (recipe.train["max_steps"], recipe.seed, recipe.model["neuron"]["type"]) == (3, 8, "toy_delay")
    assert options == {"dry_run": True, "resume": "runs/x", "changed_data": False, "debug": False}
    assert capsys.readouterr().err == (
        "note: model.neuron: type is now toy_delay; the arguments of toy_lif are dropped: tau\n"
    )


def test_validate_and_show(toy: Registry, write: Write, capsys: Out) -> None:
    assert cli.main(["validate", write(), "seeds=[1, 2]"]) == 0
    assert capsys.readouterr().out == "sound: valid, 2 runs: seed-1, seed-2\n"
    assert cli.main(["show", write()]) == 0
    write(capsys.readouterr().out, "copy.yaml")
    assert cli.main(["validate", "copy.yaml"]) == 0
    assert capsys.readouterr().out == "sound: valid\n"


def test_validate_tells_all_problems_and_exits_2(toy: Registry, write: Write, capsys: Out) -> None:
    assert cli.main(["validate", write(), "sede=1", "model.neuron.tua=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: 2 problems in r.yaml"
    assert len(lines) == 3


def test_validate_exits_3_if_the_plugin_failed(toy: Registry, write: Write, capsys: Out) -> None:
    toy.plugins.append(Plugin("sick", "no_such_module", "sj-lang-sick", "0.3", "importing no_such_module failed"))
    assert cli.main(["validate", write(), "model.norm=strange_word"]) == 3
    assert "plugin 'sick' of sj-lang-sick 0.3" in capsys.readouterr().err


def test_ls_and_cp(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    registry = Registry()
    registry.plugins.append(Plugin("sick", "sick", "sj-lang-sick", "0.3", "broken"))
    registry._recipes["lm/one"] = [(registry.plugins[0], Path(write(name="one.yaml")).resolve())]
    registry._recipes["lm/bad"] = [(registry.plugins[0], Path(write("[", name="bad.yaml")).resolve())]
    with plugins.use(registry):
        assert cli.main(["ls"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["RECIPE", "SUMMARY"]
        assert lines[1].split()[:4] == ["lm/bad", "cannot", "be", "read:"]
        assert lines[-3].split(maxsplit=1) == ["lm/one", "A recipe of toys."]
        assert lines[-1] == "plugin 'sick' of sj-lang-sick 0.3 failed to load; see `sj-lang plugins`"
        Path("mine").mkdir()
        assert cli.main(["cp", "lm/one", "mine/"]) == 0
        assert capsys.readouterr().out == "wrote mine/one.yaml\n"
        assert cli.main(["cp", "lm/one", "mine/one.yaml"]) == 2
        assert capsys.readouterr().err == "error: mine/one.yaml already exists; choose another file\n"
        assert cli.main(["cp", "lm/on", "x"]) == 2
        with monkeypatch.context() as full:  # no half of a copy may stay
            full.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            assert cli.main(["cp", "lm/one", "mine/two.yaml"]) == 2
        assert "cannot write mine/two.yaml: No space left on device" in capsys.readouterr().err
        assert not list(Path("mine").glob("two*"))
        assert cli.main(["cp", "lm/one", "mine/two.yaml"]) == 0


def test_plugins_shows_declarations_broken_plugins_and_clashes(toy: Registry, capsys: Out) -> None:
    toy.plugins.append(Plugin("sick", "sick", "sj-lang-sick", "0.3", "importing sick failed: OSError: libcuda"))
    toy._offers["norm", "centre"] *= 2
    assert cli.main(["plugins"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["toy_delay", "s,", "m", "yes", "yes", "yes", "yes", "1"] in rows
    assert ["direction=both", "m", "no", "yes", "yes", "yes", "1"] in rows
    assert "not here (not here: needs x 2)" in out
    assert "BROKEN: importing sick failed: OSError: libcuda" in out
    assert "norm 'centre' is offered by plugin 'toy' of sj-lang-toy 1.0 and by" in out


def test_plugins_shows_one_kind_or_one_component(toy: Registry, capsys: Out) -> None:
    assert cli.main(["plugins", "task"]) == 0
    out = capsys.readouterr().out
    assert "toy_lif" not in out
    assert "is installed" not in out
    assert cli.main(["plugins", "embedding"]) == 0
    assert "no embedding is installed" in capsys.readouterr().out
    assert cli.main(["plugins", "neuron/toy_delay"]) == 0
    out = capsys.readouterr().out
    assert "with direction=both:     causal: no, steps: no" in out
    assert "parameters per channel:  1" in out
    assert cli.main(["plugins", "neuron/toy_delay", "--arguments"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["delays", "a", "whole", "number", "default", "2"] in rows
    assert not [row for row in rows if row[:1] == ["channels"]]


def test_plugins_as_json(toy: Registry, capsys: Out) -> None:
    assert cli.main(["plugins", "neuron", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table["components"]) == ["neuron"]
    assert cli.main(["plugins", "neuron/toy_lif", "--json", "--arguments"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["traits"]["causal"] is True
    assert one["arguments"][0] == {"name": "tau", "type": "a number", "default": "2.0"}


def test_the_other_commands_hand_on(capsys: Out, stand_in: Callable[..., Any], tmp_path: Path) -> None:
    calls: list[Any] = []
    stand_in(
        "run",
        generate=lambda *args, **options: calls.append(("generate", args, options)) or 0,
        evaluate=lambda run, **options: calls.append(("eval", run, options)) or 0,
    )
    stand_in("report.page", write=lambda runs: calls.append(("report", runs)) or Path("report.html"))
    stand_in("commands.bench", main=lambda words: calls.append(("bench", words)) or 1)
    stand_in("commands.doctor", main=lambda as_json: 3)
    stand_in("commands.new", create=lambda *words: calls.append(("new", *words)) or Path("sj-lang-x"))
    assert cli.main(["generate", "runs/a", "--prompt", "A:", "temperature=0.7", "seed=2"]) == 0
    assert cli.main(["eval", "runs/a"]) == 0
    assert cli.main(["eval", "runs/b", "--unrolled"]) == 0
    assert cli.main(["report", "runs/a", "runs/b"]) == 0
    assert cli.main(["bench", "dsn", "--against", "lif", "--debug"]) == 1
    assert cli.main(["doctor"]) == 3
    assert cli.main(["new", "x"]) == 0
    assert calls == [
        ("generate", ("runs/a", "A:", {"temperature": 0.7}), {"seed": 2, "stream": False}),
        ("eval", "runs/a", {"unrolled": False}),
        ("eval", "runs/b", {"unrolled": True}),
        ("report", ["runs/a", "runs/b"]),
        ("bench", ["dsn", "--against", "lif"]),
        ("new", "x", None, "neuron"),
    ]
    assert capsys.readouterr().out.splitlines()[0] == "wrote report.html"


@pytest.mark.parametrize("option", ["-v", "--version"])
def test_the_version(option: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([option])
    assert (end.value.code, capsys.readouterr().out) == (0, f"sj-lang {__version__}\n")


def test_an_option_that_there_is_not(capsys: Out) -> None:
    assert cli.main(["--verbose"]) == 2
    assert capsys.readouterr().err == "error: '--verbose' is not understood; see `sj-lang --help`\n"


@pytest.mark.parametrize("words", [["ls"], ["plugins"]])
def test_lists_keep_to_the_columns(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    """COLUMNS counts in a pipe too; names are never cut, and 30 columns are left beside them."""
    widest = {}
    for columns in (60, 100, 118, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main(words) == 0
        widest[columns] = max(map(len, capsys.readouterr().out.splitlines()))
    assert widest[60] <= widest[100] <= 100 < widest[118] <= 118 < widest[200] <= 200
    monkeypatch.delenv("COLUMNS")
    assert cli.main(words) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) == widest[118]


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "sj_lang", "plugins"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("words", "key"),
    [(["ls"], 0), (["plugins"], "components"), (["plugins", "toy_lif"], "kind"), (["show", "r.yaml"], "model")],
)
def test_json_for_programs(
    toy: Registry, write: Callable[..., str], capsys: pytest.CaptureFixture[str], words: list[str], key: Any
) -> None:
    write()
    assert cli.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data, list) if key == 0 else data[key]


def test_a_component_is_found_without_its_kind(toy: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "toy_lif"]) == 0
    assert capsys.readouterr().out.startswith("neuron toy_lif: leaks")
    assert cli.main(["plugins", "nothing"]) == 2
    assert "no such kind of component: 'nothing'" in capsys.readouterr().err


def test_what_other_libraries_call_it_is_understood(
    toy: Registry, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["validate", write(), "train.lr=0.1"]) == 2
    assert "train.lr: unknown key; did you mean 'learning_rate'?" in capsys.readouterr().err
