"""docs/firing.md: what watching the neurons costs a training, in shares of its time."""

import runpy
from statistics import median

import pytest
from pages import DOCS

from sj_lang.run.measurements import Measurements


def looks(steps: int, between: int) -> list[int]:
    """The lines of the log at which a training looks."""
    lines = range(between, steps + 1, between)
    return [line for line in lines if Measurements.is_due(line, line - between, steps)]


@pytest.mark.parametrize(("steps", "between"), [(12, 2), (60, 1), (150, 3), (300, 6), (1000, 20), (7, 7)])
def test_a_training_looks_once_in_ten_steps_at_most_and_at_its_end(steps: int, between: int) -> None:
    made = looks(steps, between)
    assert made[-1] == steps - steps % between
    assert steps // max(10, between) <= len(made) <= steps // 10 + 1
    if between >= 10:
        assert made == list(range(between, steps + 1, between))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lm/quickstart", "claims/bpsn-firing", "claims/decoder-energy"])
def test_looks_take_below_three_percent(recipe: str) -> None:
    share = runpy.run_path(str(DOCS / "monitor_share.py"))["measured"](recipe, rounds=9)
    assert min(share.of(median), share.of(min)) < 0.03
