"""The wheels, and an environment that has nothing else of this repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import NOT_SOURCE, ROOT, Environment, make_environment


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the four distributions, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source") / "sj_lang"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    out = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out]
    folders = [source, source / "plugins/neurons", source / "plugins/language", source / "plugins/tasks"]
    done = subprocess.run([*pip, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the four wheels, away from the repository."""
    environment = make_environment(tmp_path_factory.mktemp("installed"), editable=False)
    environment.install(*sorted(wheels.glob("*.whl")))
    return environment
