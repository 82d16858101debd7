"""A component is checked once, when its recipe is loaded, then handed to data, config and model."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from sj_lang import build, recipe
from sj_lang.component import schema, spec, values
from sj_lang.component.schema import Argument
from sj_lang.recipe import check, sections
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


def test_defaults_are_checked_once_in_a_process(monkeypatch: pytest.MonkeyPatch, calls: Counter[str]) -> None:
    """Each of some 160 defaults, 110 of them transformers' of `train:`, has to be checked once.

    The schema holds it as a recipe would write it, and nobody else proves that its annotation
    allows it.
    """
    kept: list[Argument] = []  # so that no id is used twice
    work_out = Argument.written_default.func

    def counted(argument: Argument) -> Any:
        kept.append(argument)
        return work_out(argument)

    written_default = cached_property(counted)
    written_default.__set_name__(Argument, "written_default")
    monkeypatch.setattr(Argument, "written_default", written_default)
    for remembered in (schema._as_plain, sections.train_arguments, sections.generate_arguments):
        remembered.cache_clear()
    recipe.load("lm/quickstart")
    first = calls["values"]
    assert len(set(map(id, kept))) == len(kept) > 150
    calls.clear()
    recipe.load("lm/quickstart")
    assert calls["values"] < 80, "the values that are written, of two runs"
    assert first - calls["values"] <= len(kept), "a first load checks only defaults besides"
