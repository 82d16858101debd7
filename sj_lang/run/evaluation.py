"""The figures at the end of a run, and the predictions behind them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sj_lang.energy import unroll
from sj_lang.errors import RunFailed, UserError
from sj_lang.folder import RunFolder
from sj_lang.monitor import nodes, seeded, undisturbed
from sj_lang.run.batches import split_figures
from sj_lang.run.trainer import RunTrainer
from sj_lang.task import Prepared


def final_figures(trainer: RunTrainer, prepared: Prepared, folder: RunFolder | None) -> dict[str, float]:
    """Figures of the validation and test splits, of the first without each part of the model if
    that is measured, firing and energy on test data, and baselines.

    prepared: the data that are scored. folder: where predictions are written; None: nowhere.
    """
    validation: dict[str, float] = {}
    if prepared.validation is not None:
        validation = _scored("validation", trainer.predict(prepared.validation, metric_key_prefix="validation"))
    figures: dict[str, float] = {}
    if prepared.learner is not None:
        with seeded(trainer.args.seed), undisturbed(trainer.model):
            prepared.learner.play(trainer.model)
    with trainer.measurements.firing(figures):
        for split, data in prepared.tests.items():
            output = trainer.predict(data, metric_key_prefix=split)
            figures |= _scored(split, output)
            _store(prepared, split, output, folder)
    figures |= validation
    if prepared.tests:
        split, data = next(iter(prepared.tests.items()))
        figures |= trainer.measurements.energy(data)
        figures |= trainer.measurements.ablation(data, split)
    for split, data in prepared.unlabelled.items():
        _store(prepared, split, trainer.predict(data, metric_key_prefix=split), folder)
    baselines = prepared.baselines() if prepared.baselines is not None else {}
    for name, values in baselines.items():
        figures |= {f"baseline.{name}.{key}": value for key, value in values.items()}
    return figures


def unrolled_figures(trainer: RunTrainer) -> tuple[dict[str, float], unroll.Unrolled]:
    """The figures with spikes in sub-steps, without baselines, and what was compared.

    A model whose config says `scaled` is folded by its `fold`. UserError if it has no spikes to
    unroll, as one sample shows.
    """
    model = trainer.model
    name = type(model).__name__
    if not nodes(model):
        reason = "it is an ANN twin" if getattr(model.config, "twin", False) else "it has no spiking neurons"
        raise UserError(f"eval --unrolled: {name} has no spikes to unroll: {reason}")
    if getattr(model.config, "scaled", False) and hasattr(model, "fold"):
        model.fold()
    with undisturbed(model), unroll.unrolled(model) as probe:
        model(**trainer.probe)
    if not probe.products:
        raise UserError(
            f"eval --unrolled: {name} has no spikes to unroll: none of its matrix products has whole numbers in it; "
            "either no neuron fires, or spikes are scaled before they are multiplied and the model has no `fold`"
        )
    labelled = replace(trainer.prepared, baselines=None, unlabelled={})
    with unroll.unrolled(model) as compared:
        return final_figures(trainer, labelled, None), compared


def _scored(split: str, output: Any) -> dict[str, float]:
    """The task's figures in the output of a prediction. RunFailed if none, or if not finite."""
    figures = split_figures(split, output.metrics)
    if not figures:
        raise RunFailed(f"{split}: the model returned no logits, or the batches hold no labels")
    bad = {name.removeprefix(f"{split}."): value for name, value in figures.items() if not math.isfinite(value)}
    if bad:
        raise RunFailed(f"{split}: " + ", ".join(f"{name} is {value}" for name, value in bad.items()))
    return figures


def _store(prepared: Prepared, split: str, output: Any, folder: RunFolder | None) -> None:
    """The files that the task makes of its predictions on a split, or the arrays themselves."""
    if folder is None:
        return
    folder.predictions.mkdir(exist_ok=True)
    if prepared.errors is not None and split in prepared.tests:
        lines = prepared.errors(split, output.predictions, output.label_ids)
        folder.errors(split).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if prepared.predictions is not None:
        for name, text in prepared.predictions(split, output.predictions, output.label_ids).items():
            (folder.predictions / name).write_text(text, encoding="utf-8")
        return
    arrays = output.predictions if isinstance(output.predictions, tuple) else (output.predictions,)
    np.savez_compressed(folder.predictions / f"{split}.npz", *arrays)
