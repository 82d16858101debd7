"""Time a training step of each run of a recipe against the others: `sj-lang bench lm/quickstart`.

A step is forward, backward, clipping and AdamW on one batch, the first of the training data, with the recipe's batch
size. The runs, one seed of each, take turns, round after round, in one process: what is compared are ratios within one
run. Nothing else of a training is in it: no data loading, no Trainer, no guards, no evaluation.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from sj_lang.bench.neuron import in_turn, machine
from sj_lang.bench.timing import Stopwatch
from sj_lang.commands.arguments import Parser, positive
from sj_lang.recipe.loading import Recipe, load
from sj_lang.run.assembly import assemble
from sj_lang.run.callbacks import RunMark
from sj_lang.run.console import Console, quiet_libraries, table
from sj_lang.run.guards import Termination
from sj_lang.run.series import grouped
from sj_lang.run.trainer import RunTrainer


class Step:
    """One training step of a run, on the same batch each time."""

    def __init__(self, recipe: Recipe) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            job = assemble(recipe, Path(scratch))
            trainer = RunTrainer(
                job, console=Console(muted=True), folder=None, mark=RunMark(), termination=Termination("")
            )
            self.batch = trainer.first_batch()
        self.trainer, self.model = trainer, trainer.model.train()
        self.device = str(trainer.args.device)
        self.optimizer = trainer.create_optimizer()

    def __call__(self) -> None:
        with self.trainer.accelerator.autocast():
            loss = self.trainer.compute_loss(self.model, self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def milliseconds(self) -> float:
        watch = Stopwatch(self.device)
        watch.mark()
        self()
        watch.mark()
        return watch.laps()[0]


def main(argv: Sequence[str]) -> int:
    """The command line `sj-lang bench RECIPE`. Returns the exit code."""
    parser = Parser(prog="sj-lang bench", description=__doc__)
    parser.add_argument("recipe", help="a path, or a name from `sj-lang ls`")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes, such as model.neuron=lif")
    parser.add_argument("--repeat", type=positive, default=7, help="rounds; medians are printed (default: 7)")
    parser.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    options = parser.parse_intermixed_args(argv)
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = load(options.recipe, options.changes)
    runs = dict(recipe.children()) if recipe.is_series else {recipe.name: recipe}
    chosen = {group: names[0] for group, names in grouped(list(runs), default=recipe.name).items()}
    steps = {group: Step(runs[name]) for group, name in chosen.items()}
    times = in_turn({group: step.milliseconds for group, step in steps.items()}, options.repeat)
    device = next(iter(steps.values())).device
    print(machine("cpu" if device == "cpu" else "cuda"))
    print(f"a training step of {recipe.name}, median of {options.repeat}:")
    fastest = min(statistics.median(found) for found in times.values())
    rows = [["", "ms", "least", "most", "times the fastest"]]
    for group, found in times.items():
        middle = statistics.median(found)
        rows.append([group, *(f"{ms:.1f}" for ms in (middle, min(found), max(found))), f"{middle / fastest:.2f}"])
    print(table(rows))
    return 0
