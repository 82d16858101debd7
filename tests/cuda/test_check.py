"""The check for a GPU, as far as it runs without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from check import run, sanitizer, variants
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.scan import cupy as scan

from sj_lang import cuda
from sj_lang.testing.emulate import compiler

pytestmark = pytest.mark.any_line


@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_the_sanitizers_filter_is_a_key_and_a_value(tool: str) -> None:
    command = sanitizer.command(tool, Path("run.py"))
    assert not any(word.startswith("regex:") for word in command)
    assert ("--kernel-name" in command) == (tool != "initcheck")


def test_variants_are_those_of_each_file_dtype_and_tile() -> None:
    found = variants.variants()
    assert "cpu" not in cuda.ENGINES
    for module in (scan, dsn, bpsn):
        macros = [dict(values) for path, values in found if path == module.FILE]
        assert {values["IO"] for values in macros} == set(cuda.IO.values())
        assert {values["RUNS"] for values in macros} == {1, 4, 16, 32}


def test_variants_are_compiled_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {(scan.FILE, (("IO", io),)): "log_scan" for io in range(3)}
    monkeypatch.setattr(variants, "variants", lambda: few)
    monkeypatch.setattr(variants, "compile_one", _compile_nothing)
    assert variants.compile_all(workers=1) == 3


def _compile_nothing(path: Path, name: str, macros: tuple[tuple[str, int], ...]) -> None:
    assert path.exists()
    assert name == "log_scan"


@pytest.mark.slow  # a process for each stage, 12 s
@pytest.mark.skipif(not compiler(), reason="kernels are run as C++, and there is no C++ compiler here")
def test_dry_run(tmp_path: Path) -> None:
    """All that the check measures is written where it says; only pytest's tests are left out."""
    command = [sys.executable, run.__file__, str(tmp_path), "--dry", "--only", "correct,speed,loader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "correct.log").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [line["ok"] for line in results["correct"]["lines"]] == [True] * len(run.DRY)
    speed = results["speed"]["lines"]
    assert [line.get("schedule") for line in speed] == [None, *run.SCHEDULES * 2, None]
    assert len({line["ms"] for line in speed[1:]}) == 5
    assert [line["ok"] for line in results["loader"]["lines"]] == [True] * len(run.DRY)
