"""Time a training step of each run of a recipe against the others: `sj-lang bench lm/quickstart`.

A step is forward, backward, clipping and AdamW on one batch, the first of the training data, with
the recipe's batch size. The runs, one seed of each, take turns, round after round, in one process:
compare ratios within one run. Nothing else of a training is included: no data loading, no Trainer,
no guards, no evaluation.
"""

import tempfile
from pathlib import Path

import torch

from sj_lang.bench.timing import in_turn, milliseconds
from sj_lang.errors import UserError
from sj_lang.recipe.links import linked
from sj_lang.recipe.loading import Recipe
from sj_lang.run.assembly import assemble
from sj_lang.run.console import Console
from sj_lang.run.series import grouped
from sj_lang.run.trainer import RunTrainer


class TrainingStep:
    """One training step of a run, on the same batch each time."""

    def __init__(self, recipe: Recipe) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            job = assemble(recipe, Path(scratch))
            if job.prepared.learner is not None:
                raise UserError(
                    f"bench: the task '{recipe.task['type']}' trains by itself, and its steps cannot be timed alone; "
                    "train.seconds_per_step of a run has their mean"
                )
            trainer = RunTrainer(job, Console(muted=True))
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

    def timed(self) -> float:
        """Milliseconds."""
        return milliseconds(self, self.device)


def time_steps(recipe: Recipe, rounds: int) -> tuple[dict[str, list[float]], str]:
    """Run -> the milliseconds of its step in each round, and the device."""
    runs = linked(dict(recipe.children())) if recipe.is_series else {recipe.name: recipe}
    groups = grouped(list(runs), default=recipe.name)
    steps = {group: TrainingStep(runs[names[0]]) for group, names in groups.items()}
    device = next(iter(steps.values())).device
    return in_turn({group: step.timed for group, step in steps.items()}, rounds), device
