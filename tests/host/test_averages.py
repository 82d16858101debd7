"""Averages over the runs of a series: what counts, and the notes on what is missing."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from sj_lang.recipe import averages

TWO = {"all": {"a": ["dev.f1"], "b": ["dev.x", "dev_mm.x"]}, "one": {"a": ["dev.f1"]}}


def mean(computed: dict[str, dict[str, Any]], column: str, name: str) -> float:
    return float(computed[column][name]["mean"])


def test_single_runs() -> None:
    figures = {"a": [{"dev.f1": 0.5}], "b": [{"dev.x": 0.2, "dev_mm.x": 0.4}]}
    computed, notes = averages.compute(TWO, figures)
    assert computed == {
        "": {
            "all": {"mean": pytest.approx(0.4), "deviation": None, "n": 1},
            "one": {"mean": 0.5, "deviation": None, "n": 1},
        }
    }
    assert notes == []
    assert averages.stored(computed) == {"average": computed[""]}


def test_of_several_figures_those_that_are_there_count_and_a_note_tells_the_others() -> None:
    computed, notes = averages.compute(TWO, {"a": [{"dev.f1": 0.5}], "b": [{"dev.x": 0.2}]})
    assert mean(computed, "", "all") == pytest.approx(0.35)
    assert notes == ["average 'all': b has no dev_mm.x"]


def test_runs_that_share_a_name_are_columns_and_seeds_are_averaged_one_by_one() -> None:
    figures = {
        "a/snn": [{"dev.f1": 0.5}, {"dev.f1": 0.7}],
        "a/ann": [{"dev.f1": 0.6}],
        "b/snn": [{"dev.x": 0.1, "dev_mm.x": 0.1}, {"dev.x": 0.3, "dev_mm.x": 0.5}],
    }
    computed, notes = averages.compute(TWO, figures)
    means = [(0.5 + 0.1) / 2, (0.7 + 0.4) / 2]
    assert computed["snn"]["all"] == {
        "mean": pytest.approx(statistics.fmean(means)), "deviation": pytest.approx(statistics.stdev(means)), "n": 2,
    }  # fmt: skip
    assert "all" not in computed["ann"]
    assert mean(computed, "ann", "one") == 0.6
    assert notes == ["average 'all' of ann: no figure of b"]
    assert set(averages.stored(computed)) == {"average/snn", "average/ann"}


def test_where_runs_differ_in_their_seeds_the_means_are_averaged() -> None:
    figures = {"a": [{"dev.f1": 0.2}, {"dev.f1": 0.4}], "b": [{"dev.x": 0.5, "dev_mm.x": 0.7}]}
    computed, _ = averages.compute(TWO, figures)
    assert computed[""]["all"] == {"mean": pytest.approx((0.3 + 0.6) / 2), "deviation": None, "n": 1}
    assert computed[""]["one"]["n"] == 2


def test_baselines_are_columns_too() -> None:
    figures = {
        "a": [{"dev.f1": 0.5, "baseline.most.dev.f1": 0.1, "baseline.bag.dev.f1": 0.3}],
        "b": [{"dev.x": 0.2, "dev_mm.x": 0.4, "baseline.bag.dev.x": 0.5, "baseline.bag.dev_mm.x": 0.7}],
    }
    computed, notes = averages.compute(TWO, figures)
    assert mean(computed, "baseline.bag", "all") == pytest.approx((0.3 + 0.6) / 2)
    assert "all" not in computed["baseline.most"]
    assert notes == []
    table = averages.rows(TWO, figures, computed, lambda name, value: f"{value['mean']:.2f}")
    assert table == [
        ["", "value", "most", "bag"],
        ["a  dev.f1", "0.50", "0.10", "0.30"],
        ["b  dev.x", "0.20", "", "0.50"],
        ["b  dev_mm.x", "0.40", "", "0.70"],
        ["average  all", "0.40", "", "0.45"],
        ["average  one", "0.50", "0.10", "0.30"],
    ]


def test_a_column_without_a_figure_is_no_gap_if_another_has_it() -> None:
    rates = {"firing": {"a": ["rate"], "b": ["rate"]}}
    twins = {"a/ann": [{"x": 1.0}], "b/ann": [{"x": 1.0, "baseline.most.rate": 0.1}]}
    computed, notes = averages.compute(rates, {**twins, "a/snn": [{"rate": 0.2}], "b/snn": [{"rate": 0.4}]})
    assert list(computed) == ["snn"]
    assert mean(computed, "snn", "firing") == pytest.approx(0.3)
    assert notes == []
    _, notes = averages.compute(rates, {**twins, "a/snn": [{"rate": 0.2}], "b/snn": [{"x": 1.0}]})
    assert notes == ["average 'firing' of ann: no figure of a, b", "average 'firing' of snn: no figure of b"]


def test_a_run_that_is_missing() -> None:
    computed, notes = averages.compute(TWO, {"a": [{"dev.f1": 0.5}]})
    assert list(computed[""]) == ["one"]
    assert notes == ["average 'all': no figure of b"]
    assert averages.compute({}, {"a": [{"x": 1.0}]}) == ({}, [])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"all": {"aa": "x"}}, "did you mean 'a'"),
        ({"all": {"a": 3}}, "expected the name of a figure"),
        ({"all": {"a": []}}, "expected the name of a figure"),
        ({"all": "a"}, "expected runs and their figures"),
        ([], "expected names of averages"),
    ],
)
def test_mistakes_are_reported(section: Any, message: str) -> None:
    _, problems = averages.check(section, ["a/one", "a/two", "b"])
    assert len(problems) == 1
    assert message in problems[0].message or message in str(problems[0])


def test_check() -> None:
    assert averages.check(None, None) == (None, [])
    assert "needs 'runs'" in averages.check({"all": {"a": "x"}}, None)[1][0].message
    checked, problems = averages.check({"all": {"a": "x", "b": ["y", "z"]}}, ["a/one", "a/two", "b"])
    assert checked == {"all": {"a": ["x"], "b": ["y", "z"]}}
    assert problems == []
    assert "cannot be called 'average'" in averages.check({"all": {"average": "x"}}, ["average"])[1][0].message
