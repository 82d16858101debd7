"""A component is checked once, when its recipe is loaded, then handed to data, config and model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sj_lang import build, recipe
from sj_lang.component import spec, values
from sj_lang.recipe import check
from sj_lang.run.assembly import assemble

KINDS = ("task", "tokenizer", "model", "neuron", "embedding", "attention", "norm")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of component is resolved, and ("values") how often a value is checked."""
    counts: Counter[str] = Counter()
    resolve, check_value = spec.resolve, values.check

    def counted_resolve(kind: str, *arguments: Any) -> Any:
        counts[kind] += 1
        return resolve(kind, *arguments)

    def counted_check(*arguments: Any) -> Any:
        counts["values"] += 1
        return check_value(*arguments)

    for module in (spec, build, check):
        monkeypatch.setattr(module, "resolve", counted_resolve)
    monkeypatch.setattr(values, "check", counted_check)
    return counts


def test_each_part_of_the_quickstart_is_resolved_once(calls: Counter[str], tmp_path: Path) -> None:
    runs = recipe.load("lm/quickstart").children()
    assert {kind: calls[kind] for kind in KINDS} == dict.fromkeys(KINDS, len(runs))
    calls.clear()
    assemble(dict(runs)["spiking"], tmp_path)
    assert calls == {"source": 1}, "the data set is looked up, nothing is checked again"


def test_defaults_are_checked_once_in_a_process(calls: Counter[str]) -> None:
    recipe.load("lm/quickstart")
    calls.clear()
    recipe.load("lm/quickstart")
    assert calls["values"] < 80, "the values that are written, of two runs"
