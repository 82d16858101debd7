"""The energy that SpikeDecoder's thesis code states with its default rates, from our prices.

Known of it are the formula of each product, the rates, and four figures. A search over widths,
lengths and numbers of blocks for what gives these figures ends at what stands here: D = 80 is a
multiple of the paper's 10, 8, 5 and 1 heads, L = 256 and V = 30 are the paper's.
"""

import pytest

from sj_lang.energy.costs import TABLES

D, L, V = 80, 256, 30
RATES = {"query": 0.30, "scores": 0.16, "in": 0.27, "out": 0.23, "mlp": 0.29, "hidden": 0.11, "head": 0.40}


def accumulations(blocks: int, *, scores_of_the_future: bool, biases: bool) -> float:
    """Of one step: what each product takes, by the rate of its operand of spikes."""
    r, square = RATES, L * D * D
    kept = 1 if scores_of_the_future else (L + 1) / (2 * L)  # of Q K^T below the mask
    attention = (3 * r["in"] + r["out"]) * square + (r["query"] + kept * r["scores"]) * L * L * D
    mlp = 16 * (r["mlp"] + r["hidden"]) * square
    return blocks * (attention + mlp + biases * 21 * L * D / 2) + r["head"] * L * D * V + biases * V * L / 2


def multiplications(blocks: int, last: int) -> float:
    """Of the ANN. last: the outputs of the MLP's second Linear as they are counted."""
    return blocks * (4 * L * D * D + 2 * L * L * D + 16 * L * D * D + 16 * L * D * last) + L * D * V


def reduction(
    steps: int, *, blocks: int, last: int = D, scores_of_the_future: bool = False, biases: bool = False
) -> float:
    prices = TABLES["45nm"]
    assert prices.mac is not None
    assert prices.accumulation is not None
    spikes = accumulations(blocks, scores_of_the_future=scores_of_the_future, biases=biases)
    return 100 * (1 - steps * prices.accumulation * spikes / (prices.mac * multiplications(blocks, last)))


@pytest.mark.parametrize("blocks", [2, 3, 4, 5])
def test_default_rates_give_the_figures_of_the_thesis(blocks: int) -> None:
    assert [round(reduction(steps, blocks=blocks), 1) for steps in (4, 2)] == [84.0, 92.0]
    assert [round(reduction(steps, blocks=blocks, last=L), 1) for steps in (4, 2)] == [91.2, 95.6]


def test_six_blocks_miss_one_figure_by_less_than_its_rounding() -> None:
    assert [round(reduction(steps, blocks=6), 1) for steps in (4, 2)] == [84.0, 92.0]
    assert reduction(4, blocks=6, last=L) == pytest.approx(91.25, abs=0.002)


def test_scores_above_the_mask_and_biases_are_what_had_kept_them_apart() -> None:
    other = [reduction(4, blocks=6, last=last, scores_of_the_future=True, biases=True) for last in (D, L)]
    assert other == pytest.approx([83.3, 90.9], abs=0.05)
