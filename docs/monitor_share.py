"""What watching the neurons costs a training, in shares of its time.

    python docs/monitor_share.py [RECIPE] [--rounds N]

A run looks at two samples whenever it writes a line of the log. This times such a look and a
training step, in turns, in processor time of one thread, and prints the medians and the share of a
training with the recipe's own steps and lines.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from sj_lang.bench.recipe import TrainingStep
from sj_lang.recipe import load


def milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="lm/quickstart")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load(options.recipe)
    step = TrainingStep(next(iter(dict(recipe.children()).values())) if recipe.is_series else recipe)
    probe = step.trainer.measurements.probe
    works = {"step": step, "look": probe}
    for work in works.values():
        work()
    rounds = [{name: milliseconds(work) for name, work in works.items()} for _ in range(options.rounds)]
    steps, looks = ([one[name] for one in rounds] for name in works)
    arguments = step.trainer.args
    between = arguments.logging_steps
    if between < 1:
        between = max(1, round(between * arguments.max_steps))
    for name, times in (("step", steps), ("look", looks)):
        print(f"{name}: {median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})")
    share = median(looks) / (between * median(steps) + median(looks))
    print(f"a look every {between:.0f} steps: {share:.1%} of the training")


if __name__ == "__main__":
    main()
