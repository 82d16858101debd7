"""A training that a task's `Learner` carries out in the place of the Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sj_lang.errors import RunFailed, UserError
from sj_lang.recipe.sections import train_arguments
from sj_lang.run.assembly import Job
from sj_lang.run.console import Console
from sj_lang.run.trainer import RunTrainer
from sj_lang.task import Learner

#: of `train:`, for the machine and for predictions
_ALWAYS = frozenset({"use_cpu", "disable_tqdm", "per_device_eval_batch_size"})


def check(job: Job, learner: Learner) -> None:
    """Refuse what the learner would ignore."""
    task, train, arguments = job.recipe.task["type"], job.recipe.train, job.arguments
    if arguments.max_steps <= 0:
        raise UserError(f"train.max_steps: set it; the task '{task}' has steps and no epochs")
    if arguments.world_size > 1:
        raise UserError(
            f"task '{task}' trains in one process, and {arguments.world_size} were started; start it without torchrun"
        )
    schema, reads = train_arguments(), _ALWAYS | set(learner.reads)
    ignored = [key for key, value in train.items() if key not in reads and value != schema[key].default]
    if ignored:
        raise UserError(
            f"train.{ignored[0]}: the task '{task}' trains by itself and does not read it; it reads "
            f"{', '.join(sorted(learner.reads))}"
        )
    if job.recipe.measure["ablate"]:
        raise UserError(f"measure.ablate: the test data of the task '{task}' depend on the whole model; leave it out")


def learn(trainer: RunTrainer, learner: Learner, console: Console) -> None:
    """Train, with lines on the screen and in metrics.jsonl. RunFailed at a figure that is not
    finite, Interrupted at a signal."""
    state, args, folder = trainer.state, trainer.args, trainer.folder
    digits = len(str(args.max_steps))

    def log(step: int, figures: Mapping[str, float]) -> None:
        state.global_step = step
        trainer.termination.check(f"at step {step}; this task begins anew, as it keeps no checkpoints")
        bad = next((name for name, value in figures.items() if not math.isfinite(value)), None)
        if bad is not None:
            raise RunFailed(f"stopped at step {step}: {bad} is {figures[bad]}")
        if not figures:
            return
        with trainer.mark.paused():
            figures = {**figures, **trainer.measurements.probe()}
            histograms = trainer.measurements.decay_histograms()
        console.say(f"step {step:>{digits}}/{args.max_steps}  " + _words(figures))
        if folder is not None:
            entry = {name if "." in name else f"train.{name}": value for name, value in figures.items()}
            folder.append({"step": step, **entry, **histograms})

    trainer.mark.on_train_begin(args, state, trainer.control)
    try:
        learner.train(trainer.model, args, log)
    finally:
        trainer.mark.on_train_end(args, state, trainer.control)
    trainer.model.eval()


def _words(figures: Mapping[str, float]) -> str:
    """The figures of a line, and of firing only the mean."""
    shown = {name: value for name, value in figures.items() if "." not in name}
    words = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items()]
    firing = figures.get("firing_rate.mean")
    return "  ".join(words if firing is None else [*words, f"firing {firing:.3f}"])
