"""The comparison of codings runs, and counts memory that a step frees again."""

from __future__ import annotations

import argparse

import pytest
from sj_lang_language.models.snn_bert import bench

SMALL = {"hidden": 16, "layers": 1, "heads": 2, "length": 8, "batch": 2, "device": "cpu"}


@pytest.mark.parametrize("kind", sorted(bench.KINDS))
def test_a_step_of_each_kind(kind: str) -> None:
    step = bench.CodingStep(kind, argparse.Namespace(**SMALL))
    assert step.timed() > 0
    assert step.model.config.repeats == (4 if "repeat" in kind else None)
    assert all(p.grad is not None for p in step.model.parameters())


@pytest.mark.slow
def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--hidden", "64", "--layers", "1", "--length", "64", "--batch", "16", "--repeat", "1"]
    assert bench.main([*sizes, "--kinds", "bpsn individual,lif repeat T=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:18].strip(): line[18:].split() for line in lines[-2:]}
    assert set(rows) == {"bpsn individual", "lif repeat T=4"}
    assert float(rows["lif repeat T=4"][3]) > 2 * float(rows["bpsn individual"][3]) > 0
