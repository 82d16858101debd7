"""Where a student begins: with its teacher's weights, and spikes fitted to its computation."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, default_data_collator

from sj_lang.errors import UserError
from sj_lang.task import Prepared


@torch.no_grad()
def start_from(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Give the student every tensor of the teacher. UserError if one does not fit."""
    places, tensors = student.state_dict(), teacher.state_dict()
    missing = sorted(set(tensors) - set(places))
    if missing:
        raise UserError(
            f"task.start: the student has no place for {len(missing)} tensors of the teacher, such as {missing[0]}; "
            "take a teacher that is its ANN twin, or set task.start=false"
        )
    other = [name for name, tensor in tensors.items() if tensor.shape != places[name].shape]
    if other:
        name = other[0]
        raise UserError(
            f"task.start: {len(other)} tensors of the teacher have a different shape in the student, such as "
            f"{name}: {list(tensors[name].shape)} in the teacher, {list(places[name].shape)} in the student"
        )
    for name, tensor in tensors.items():
        places[name].copy_(tensor)


def calibrate(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    ready: Prepared,
    sentences: int,
    seed: int,
    spike_price: float = 0.0,
) -> tuple[dict[str, float], list[float]]:
    """Fit the student's spikes to its teacher on some training sentences.

    Returns the relative error of each layer's output, as figures of the run, and the variances of
    the teacher's hidden states, from the embeddings on. UserError if there are no sentences, or if
    the student cannot be calibrated.
    """
    if not hasattr(student, "calibrate"):
        raise UserError(f"task.calibrate: {type(student).__name__} has no `calibrate`; set task.calibrate=0")
    batch = _draw(ready, sentences, seed)
    with torch.no_grad():
        states = teacher(**batch, output_hidden_states=True)["hidden_states"]
    valid = batch["attention_mask"].bool()
    variances = [float(state[valid].var(0, correction=0).mean()) for state in states]
    errors: Mapping[str, float] = student.calibrate(teacher, batch, spike_price=spike_price)
    return {f"calibration.error.{layer}": error for layer, error in errors.items()}, variances


def _draw(ready: Prepared, sentences: int, seed: int) -> dict[str, Tensor]:
    """A batch of training sentences without their labels."""
    train: Any = ready.train
    if not hasattr(train, "__len__"):
        raise UserError("task.calibrate: the training data are a stream, from which no sentences can be drawn")
    if not len(train):
        raise UserError("task.calibrate: the training data are empty")
    chosen = random.Random(seed).sample(range(len(train)), min(sentences, len(train)))
    collate = ready.collate or default_data_collator
    batch = collate([train[index] for index in chosen])
    return {name: value for name, value in batch.items() if "label" not in name}
