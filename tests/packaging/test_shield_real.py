"""The shield with wheels as the registry has them, some of which do not load beside their torch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAIR = ("torchaudio==2.11.0", "torchvision==0.28.0")
USE = """
from transformers import BertConfig, BertForSequenceClassification, GPT2LMHeadModel, Trainer, pipeline
from spikingjelly.activation_based import functional, neuron
import torch
model = BertForSequenceClassification(BertConfig(num_hidden_layers=1, vocab_size=9))
print(torch.__version__, tuple(model(torch.ones(1, 4, dtype=torch.long)).logits.shape))
"""
Install = Callable[..., Path]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Return pip install --target of the named distributions, each once;
    skips where the registry has none.
    """
    done: dict[tuple[str, ...], Path] = {}

    def install(*distributions: str) -> Path:
        if distributions not in done:
            target = tmp_path_factory.mktemp("site")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            result = subprocess.run([*pip, "--target", target, *distributions], capture_output=True, text=True)
            if "No matching distribution found" in result.stderr:
                pytest.skip(f"no registry known to pip here has {' and '.join(distributions)}")
            assert result.returncode == 0, result.stderr
            done[distributions] = target
        return done[distributions]

    return install


def python(code: str, *sites: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sites))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def check(version: str, *sites: Path) -> None:
    """What does not load breaks transformers at first; with the shield everything works,
    and just that is named.
    """
    broken = [name for name in ("torchaudio", "torchvision") if python(f"import {name}", *sites).returncode]
    plain = python("from transformers import Trainer", *sites)
    assert plain.returncode != 0, "nothing to shield against: these wheels load beside this torch"
    shielded = python("from sj_lang.hf import shield; print(*shield())" + USE, *sites)
    assert shielded.returncode == 0, shielded.stderr
    names, used = shielded.stdout.splitlines()
    assert names.split() == broken
    assert used.startswith(version)
    assert used.endswith("(1, 2)")
    doctor = python("from sj_lang.commands.doctor import main; raise SystemExit(main())", *sites)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    hidden = [line.split()[:2] for line in doctor.stdout.splitlines() if " hidden " in line]
    assert hidden == [[name, "hidden"] for name in broken]


def test_wheels_made_for_another_torch(install: Install) -> None:
    check("", install(*PAIR))


def test_cpu_only_torch(install: Install) -> None:
    check("2.13.0+cpu", install("torch==2.13.0+cpu"), install(*PAIR))


def test_what_pip_resolved_here() -> None:
    """Whatever this environment holds, the shield makes transformers work in it."""
    done = python("from sj_lang.hf import shield; shield()" + USE)
    assert done.returncode == 0, done.stderr
