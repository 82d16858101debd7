"""Environments for the slow tests: new ones that see the
heavy dependencies of this one and nothing else of it.
"""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "_build")


def packages_here() -> list[str]:
    """The folders that hold this environment's distributions."""
    site_packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(site_packages | {entry for entry in sys.path if entry in site.getsitepackages()})


@dataclass(frozen=True)
class Environment:
    """A virtual environment, with a working directory outside the repository."""

    folder: Path
    work: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *arguments: str | Path) -> None:
        """pip install, from what is on this machine: no dependencies, no build environment."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index", "--no-deps"]
        done = subprocess.run([*pip, "--no-build-isolation", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a command of the environment in the working directory, check its exit code,
        return its output.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SJ_LANG", "VIRTUAL_ENV"))}
        program = self.folder / "bin" / command[0]
        done = subprocess.run([program, *command[1:]], cwd=self.work, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def make_environment(folder: Path, *, editable: bool) -> Environment:
    """Create one. editable: what is installed here from a folder is active in it too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    lines = [f"import site; site.addsitedir({path!r})" if editable else path for path in packages_here()]
    (pure,) = (folder / "venv").glob("lib/python*/site-packages")
    (pure / "dependencies.pth").write_text("\n".join(lines) + "\n")
    (folder / "work").mkdir()
    return Environment(folder / "venv", folder / "work")
