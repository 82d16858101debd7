"""Recipes with one or two things wrong: refused with exit code 2, or they run;
nothing is unexpected.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from damage import ODD, places, replaced
from tiny import RECIPE

from sj_lang import cli
from sj_lang.component import yaml_marks
from sj_lang.recipe import load

#: what takes minutes, or another machine
_LEFT_OUT = ("torch_compile", "torch_compile_mode", "torch_compile_backend", "push_to_hub", "report_to", "deepspeed")
_TEXTS = ("\t", "\x1b[31m", "\0", "[" * 900, "&a [*a]", "? ", "- ", "!!python/name:os.system ", "9" * 5000, "é", ": :")
_VALUES = (*(value for value in ODD if not isinstance(value, str) or len(value) < 99), 1, 2, 1e-30, [], "none", "auto")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tiny import offered

    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    with offered():
        return load(str(path), ["train.max_steps=2", "task.windows=8", "output=r"]).resolved()


def _mutated(resolved: dict[str, Any], source: random.Random) -> str:
    if source.random() < 0.25:
        text = RECIPE
        for _ in range(source.choice((1, 2))):
            place = source.randrange(len(text))
            gone = source.choice((0, 0, 1, 5))
            text = text[:place] + source.choice((*_TEXTS, "")) + text[place + gone :]
        return text
    tree: Any = resolved
    for _ in range(source.choice((1, 1, 2))):
        left_out = (("recipe",), ())
        keys = source.choice([one for one in places(tree) if one not in left_out and one[-1] not in _LEFT_OUT])
        tree = replaced(tree, keys, source.choice(_VALUES))
    return yaml_marks.dump(tree)


def _check(command: list[str], resolved: dict[str, Any], seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    text = _mutated(resolved, random.Random(seed))
    Path("mutated.yaml").write_text(text)
    code = cli.main([*command, "mutated.yaml", "train.max_steps=2"])
    output, errors = capfd.readouterr()
    assert "unexpected " not in errors.replace("unexpected keyword", ""), f"seed {seed}: {errors}"
    assert "Traceback" not in errors, f"seed {seed}: {errors}"
    assert "\x1b" not in output + errors, f"seed {seed}"
    assert code in (0, 1, 2), f"seed {seed}: {code}, {errors}"
    assert code == 0 or errors.startswith("error: ") or "\nerror: " in errors, f"seed {seed}: {errors}"
    assert code != 1 or "the run failed" in errors or "error: " in errors


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_validated(resolved: dict[str, Any], start: int, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(start, start + 30):
        _check(["validate"], resolved, seed, capfd)


@pytest.mark.parametrize("seed", [*range(20), 144])  # 144: -1e300 for a float32
def test_run(resolved: dict[str, Any], seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    _check(["run"], resolved, seed, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 180))
def test_more_run(resolved: dict[str, Any], seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    _check(["run"], resolved, seed, capfd)
