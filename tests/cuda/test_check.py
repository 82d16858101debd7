"""The check for a GPU, as far as it runs without one."""

from pathlib import Path

import pytest
from check import sanitizer, variants
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.scan import cupy as scan

from sj_lang import cuda


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
    assert variants.compile_all(workers=2) == 3


def _compile_nothing(path: Path, name: str, macros: tuple[tuple[str, int], ...]) -> None:
    assert path.exists()
    assert name == "log_scan"
