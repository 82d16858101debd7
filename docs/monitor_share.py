"""What watching the neurons costs a training, in shares of its time.

    python docs/monitor_share.py [RECIPE] [--rounds N]

A run looks at two samples at some lines of its log. This times such a look and a training step, in
turns, in one process and in processor time of one thread, and prints the medians and the share of a
training with the recipe's own steps and lines.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch

from sj_lang.bench.recipe import TrainingStep
from sj_lang.recipe import load


class Share(NamedTuple):
    """Milliseconds in each round; looks: how many a training of `steps` steps has."""

    step: list[float]
    look: list[float]
    looks: int
    steps: int

    def of(self, typical: Callable[[list[float]], float]) -> float:
        """The share of the looks in a training, by the `typical` round: `median` or `min`."""
        looks = self.looks * typical(self.look)
        return looks / (self.steps * typical(self.step) + looks)


def milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def measured(name: str, rounds: int) -> Share:
    """name: of a recipe; of a series, its first run is measured."""
    recipe = load(name)
    step = TrainingStep(next(iter(dict(recipe.children()).values())) if recipe.is_series else recipe)
    measurements, arguments = step.trainer.measurements, step.trainer.args

    def look() -> None:
        measurements.probe()
        measurements.decay_histograms()

    for work in (step, look):
        work()
    times = [(milliseconds(step), milliseconds(look)) for _ in range(rounds)]
    steps, between = arguments.max_steps, arguments.logging_steps
    between = round(between) if between >= 1 else max(1, round(between * steps))
    looks = sum(measurements.is_due(line, line - between, steps) for line in range(between, steps + 1, between))
    return Share([one for one, _ in times], [one for _, one in times], looks, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="lm/quickstart")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    share = measured(options.recipe, options.rounds)
    for name, times in (("step", share.step), ("look", share.look)):
        print(f"{name}: {median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})")
    print(
        f"{share.looks} looks in {share.steps} steps: {share.of(median):.1%} of the training, by the fastest rounds "
        f"{share.of(min):.1%}"
    )


if __name__ == "__main__":
    main()
