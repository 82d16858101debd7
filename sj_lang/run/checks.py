"""Checks of a trainer before the training: its loss, and the figure that chooses the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sized

from sj_lang.energy import ledger
from sj_lang.errors import UserError, choices
from sj_lang.hf import shield
from sj_lang.monitor import seeded, undisturbed
from sj_lang.run.guards import check_loss_scaling
from sj_lang.run.trainer import RunTrainer

shield()

from transformers.trainer_pt_utils import nested_numpify  # noqa: E402


def check_loss(trainer: RunTrainer) -> None:
    """A loss that is accumulated or spread must be divided by `num_items_in_batch`."""
    if trainer.is_spread and trainer.objective is not None:
        raise UserError(
            "train: the objective of this task works in one process and with DDP, not with FSDP or DeepSpeed"
        )
    parts = trainer.args.gradient_accumulation_steps * trainer.args.world_size
    if parts > 1 and trainer.model_accepts_loss_kwargs:
        check_loss_scaling(trainer.model, trainer.probe, accumulation=parts)


def check_smoothing(trainer: RunTrainer) -> None:
    """transformers smooths the cross-entropy of `labels` and would replace other losses by it."""
    if not trainer.args.label_smoothing_factor:
        return
    names = [name for name in trainer.probe if "label" in name]
    smoothable = names == ["labels"] and not trainer.probe["labels"].is_floating_point()
    if trainer.objective is not None or not smoothable:
        raise UserError(
            "train.label_smoothing_factor: only a loss that is the cross-entropy of `labels` alone is smoothed, "
            "as in classification or masked-LM without nsp; leave it out"
        )


def check_purity(trainer: RunTrainer, purity: str | None) -> None:
    """What `measure.purity` demands of the model, tried on the samples of the probe."""
    if purity is None:
        return
    book = ledger(trainer.model, trainer.probe)
    wrong = [*(f"{text} is not counted" for text in book.uncounted), *book.impurities(strict=purity == "strict")]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"measure.purity: {purity}: {type(trainer.model).__name__} is not made of spikes: "
            f"{'; '.join(wrong[:3])}{more}"
        )


def check_choice(trainer: RunTrainer) -> None:
    """The figure that chooses the checkpoint must be one that the evaluation gives on the probe."""
    metric = (trainer.args.metric_for_best_model or "").removeprefix("eval_")
    prepared = trainer.prepared
    evaluates = prepared.validation is not None and trainer.args.eval_strategy != "no"
    if not evaluates or metric in ("", "loss", prepared.select):
        return
    with undisturbed(trainer.model):
        _, logits, labels = trainer.prediction_step(trainer.model, trainer.probe, prediction_loss_only=False)
        reduced = trainer.preprocess_logits_for_metrics(logits, labels)
    names = {"loss", *prepared.metrics("validation", nested_numpify(reduced), nested_numpify(labels))}
    if metric not in names:
        hint = choices(metric, list(names))
        raise UserError(f"train.metric_for_best_model: the evaluation gives no '{metric}'; {hint}")


def planned_steps(trainer: RunTrainer) -> int:
    """Optimizer steps of the whole training."""
    if trainer.prepared.learner is not None or not isinstance(trainer.prepared.train, Sized):
        return int(trainer.args.max_steps)
    with seeded(trainer.args.seed):
        batches = len(trainer.get_train_dataloader())
    updates = math.ceil(batches / trainer.args.gradient_accumulation_steps)
    steps: int = trainer.args.max_steps
    if steps <= 0:
        steps = math.ceil(trainer.args.num_train_epochs * updates)
    if batches == 0 or steps < 1:
        raise UserError("train: the data give no optimizer step; lower the batch size or raise num_train_epochs")
    return steps
