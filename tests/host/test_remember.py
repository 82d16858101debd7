"""What checks find out is kept between processes, and is void once the code is another one."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sj_lang import plugins
from sj_lang.component import remember, schema
from sj_lang.component.remember import between_processes, remembered
from sj_lang.component.schema import Data, Part
from sj_lang.plugins import Registry


class Foreign:
    """Reading it back would import this module."""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Ask for a value as a process of its own would; returns how often it was computed so far."""
    monkeypatch.setenv("SJ_LANG_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changing_code.py"
    module.write_text("A = 1\n")
    os.utime(module, (1, 1))
    monkeypatch.delitem(sys.modules, "changing_code", raising=False)
    importlib.import_module("changing_code")
    computed: list[object] = []

    def compute(value: object) -> object:
        computed.append(value)
        return value

    def asked(value: object = 3, *, key: str = "key") -> int:
        with between_processes():
            assert isinstance(remembered((key,), lambda: compute(value)), type(value))
        return len(computed)

    return asked


def test_the_second_process_computes_nothing(ask: Callable[..., int]) -> None:
    assert [ask(), ask(), ask(key="another"), ask()] == [1, 1, 2, 2]


def test_a_changed_file_voids_everything(ask: Callable[..., int], tmp_path: Path) -> None:
    ask()
    os.utime(tmp_path / "changing_code.py", (2, 2))
    assert [ask(), ask()] == [2, 2]
    (tmp_path / "changing_code.py").unlink()
    assert ask() == 3


def test_a_file_that_changes_during_the_check_is_not_believed(ask: Callable[..., int], tmp_path: Path) -> None:
    with between_processes():
        remembered(("key",), lambda: 3)
        (tmp_path / "changing_code.py").write_text("A = 2\n")  # imported with 1
    os.utime(tmp_path / "changing_code.py", (3, 3))
    assert ask() == 1


def test_another_set_of_plugins_voids_everything(ask: Callable[..., int]) -> None:
    ask()
    with plugins.use(Registry()):
        assert ask() == 2


def test_errors_and_foreign_objects_are_computed_each_time(ask: Callable[..., int]) -> None:
    assert [ask(Foreign()), ask(Foreign())] == [1, 2]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), between_processes():
            remembered(("error",), lambda: 1 // 0)


def test_a_damaged_file_counts_as_none(ask: Callable[..., int], tmp_path: Path) -> None:
    ask()
    (kept,) = (tmp_path / "cache").iterdir()
    for content in (b"", b"no pickle", b"\x80\x04N."):
        kept.write_bytes(content)
        assert ask() > 1


HOSTILE = [("inspect", "os.mkdir"), ("os", "mkdir"), ("types", "FunctionType"), ("typing", "_eval_type")]
HOSTILE += [("builtins", "eval"), ("operator", "attrgetter"), ("pydantic.fields", "sys.exit")]


def called(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, argument)]
    return b"\x80\x04" + texts[0] + texts[1] + b"\x93" + texts[2] + b"\x85R."


@pytest.mark.parametrize(("module", "name"), HOSTILE)
def test_a_file_cannot_name_what_runs_code(module: str, name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is not plain"):
        remember._read(called(module, name, "1"))


def test_a_hostile_file_counts_as_none(ask: Callable[..., int], tmp_path: Path) -> None:
    ask()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(called("inspect", "os.mkdir", str(tmp_path / "made")))
    assert ask() == 2
    assert not (tmp_path / "made").exists()


def test_nothing_is_kept_if_it_is_switched_off(ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SJ_LANG_CACHE", "")
    assert [ask(), ask()] == [1, 2]


def test_annotations_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SJ_LANG_CACHE", str(tmp_path))
    annotations = (Part["neuron"], Part["norm"] | None, Data | list[Data] | None, int | None, tuple[float, ...])
    for _ in range(2):
        with between_processes():
            assert remembered(("annotations",), lambda: annotations) == annotations
    assert schema.arguments_of("neuron", "lif")["tau"].written_default == 2.0


WATCHED = """
import sys, time
from sj_lang.cli import main
code = main(sys.argv[1:])
print("heavy:", sorted({"torch", "transformers", "spikingjelly"} & sys.modules.keys()))
sys.exit(code)
"""


def test_a_second_check_imports_no_torch(tmp_path: Path) -> None:
    """Also of a recipe that was changed in between, right or wrong."""

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WATCHED, *words]
        environment = {**os.environ, "SJ_LANG_CACHE": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    first = check("show", "lm/quickstart")
    again = check("show", "lm/quickstart")
    assert "'torch'" in first.stdout.splitlines()[-1]
    assert again.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1]
    assert again.stdout.splitlines()[-1] == "heavy: []"
    changed = check("validate", "lm/quickstart", "train.learning_rate=3e-4")
    assert changed.returncode == 0
    assert "heavy: []" in changed.stdout
    wrong = check("validate", "lm/quickstart", "model.neuron.kk=3", "train.learnin_rate=x")
    assert wrong.returncode == 2
    assert "heavy: []" in wrong.stdout
    assert "did you mean 'learning_rate'" in wrong.stderr
    assert "model.neuron.kk: unknown key" in wrong.stderr
