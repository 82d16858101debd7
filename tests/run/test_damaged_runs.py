"""Damaged and hostile run folders: each command says which file is wrong and how,
and nothing is unexpected.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from damage import spoil

from sj_lang import cli


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, without its checkpoints."""
    return Path(shutil.copytree(finished, tmp_path / "r", ignore=shutil.ignore_patterns("checkpoint-*")))


def _sound(root: Path) -> dict[str, float]:
    return {k: v for k, v in json.loads((root / "metrics.json").read_text()).items() if k.startswith("test.")}


def _check(root: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    figures = _sound(root)
    told = spoil(root, seed)
    for command in ("report", "eval", "generate"):
        (root / "eval.json").unlink(missing_ok=True)
        code = cli.main([command, str(root)])
        output, errors = capfd.readouterr()
        assert "unexpected" not in errors, f"{told}: {command}: {errors}"
        assert "Traceback" not in errors, f"{told}: {command}: {errors}"
        assert code in (0, 2), f"{told}: {command}: {code} {errors}"
        assert (code == 2) == ("error: " in errors), f"{told}: {command}: {code} {errors}"
        assert "\x1b" not in output + errors, f"{told}: {command}"
        if code == 0 and command == "eval" and "recipe.yaml" not in told and "safetensors flipped" not in told:
            again = json.loads((root / "eval.json").read_text())
            assert {name: again[name] for name in figures} == pytest.approx(figures), told


@pytest.mark.parametrize("seed", [*range(40), 507])  # 507: 2 ** 63 layers
def test_damaged(root: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    _check(root, seed, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 300))
def test_more_damaged(root: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    _check(root, seed, capfd)
