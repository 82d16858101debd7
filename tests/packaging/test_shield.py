"""The shield against a torchaudio or torchvision that cannot load, with packages made for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = "raise RuntimeError('compiled for another torch\\nsecond line')"
WARNS = "import warnings; warnings.warn('no codec found'); VALUE = 1"


def run(site: Path, code: str) -> str:
    """Run code in a fresh interpreter, in which `site` comes
    first and a stand-in for torch saves the seconds.
    """
    if not (site / "torch.py").exists():
        (site / "torch.py").write_text("")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def package(site: Path, name: str, body: str) -> None:
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(f"open('imported-{name}', 'a').write('x')\n{body}\n")
    (site / name / "functional.py").write_text("")


@pytest.mark.parametrize("name", ["torchaudio", "torchvision"])
def test_broken_package_is_hidden_and_the_other_left_alone(tmp_path: Path, name: str) -> None:
    other = {"torchaudio": "torchvision", "torchvision": "torchaudio"}[name]
    package(tmp_path, name, BROKEN)
    package(tmp_path, other, WARNS)
    code = f"""
import importlib.util
from sj_lang.hf import shield
print(shield())
assert shield() == shield()
assert importlib.util.find_spec({name!r}) is None
assert importlib.util.find_spec({other!r}) is not None
for statement in ("import {name}", "from {name} import functional", "import {name}.functional"):
    try:
        exec(statement)
    except ImportError:
        continue
    raise SystemExit(statement + " worked")
import {other}.functional
print({other}.VALUE)
"""
    lines = run(tmp_path, code).splitlines()
    assert lines == [f"{{'{name}': 'RuntimeError: compiled for another torch'}}", "1"]
    assert (tmp_path / f"imported-{name}").read_text() == "x"  # tried once only


@pytest.mark.parametrize("error", ["OSError('x.so')", "ImportError('x')", "AttributeError('x')"])
def test_any_exception_hides(tmp_path: Path, error: str) -> None:
    package(tmp_path, "torchaudio", f"raise {error}")
    package(tmp_path, "torchvision", WARNS)
    assert run(tmp_path, "from sj_lang.hf import shield; print(*shield())") == "torchaudio\n"


def test_imported_package_is_not_touched(tmp_path: Path) -> None:
    package(tmp_path, "torchvision", WARNS)
    package(tmp_path, "torchaudio", WARNS)
    code = """
import sys, types
sys.modules["torchaudio"] = mine = types.ModuleType("torchaudio")  # without a __spec__, as stubs are
from sj_lang.hf import shield
assert shield() == {}
assert sys.modules["torchaudio"] is mine
"""
    run(tmp_path, code)
    assert not (tmp_path / "imported-torchaudio").exists()


def test_broken_torch_speaks_for_itself(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is missing')")
    package(tmp_path, "torchvision", "import torch")
    code = """
import sys
from sj_lang.hf import shield
try:
    shield()
except ImportError as error:
    print(error)
assert "torchvision" not in sys.modules
"""
    assert run(tmp_path, code) == "libtorch.so is missing\n"


def test_answers_noted_before_the_shield_are_dropped(tmp_path: Path) -> None:
    """transformers and datasets may be imported, and asked, before sj_lang is."""
    package(tmp_path, "torchvision", BROKEN)
    package(tmp_path, "torchaudio", BROKEN)
    code = """
import functools, importlib.util, sys, types
@functools.lru_cache
def is_torchvision_available():
    return importlib.util.find_spec("torchvision") is not None
transformers = sys.modules["transformers.utils.import_utils"] = types.ModuleType("import_utils")
transformers.is_torchvision_available = is_torchvision_available
datasets = sys.modules["datasets.config"] = types.ModuleType("config")
datasets.TORCHVISION_AVAILABLE = is_torchvision_available()
from sj_lang.hf import shield
assert list(shield()) == ["torchaudio", "torchvision"]
print(is_torchvision_available(), datasets.TORCHVISION_AVAILABLE)
"""
    assert run(tmp_path, code) == "False False\n"
