"""The loss of distillation, exact under gradient accumulation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from sj_lang.errors import UserError
from sj_lang.monitor import undisturbed
from sj_lang_language.data.text.windows import IGNORED
from sj_lang_language.tasks.distillation.relations import AttentionRelations
from sj_lang_language.tasks.firing import FiringRates, scored_of_each

_PROBE = 4  # tokens of the text on which the two models are compared before training


class DistillationLoss(nn.Module):
    """`Distillation` has the equations. Holds the matrices W, but not the teacher, as a module.

    student: is looked at, not kept. labels: the keys of a batch that hold them, in the order of the
    models' outputs. variances: of the teacher's hidden states; each layer's squares are divided by
    its own. None: they are not. firing: weight of the student's firing rate,
    or of its distance to `firing_target`. relations: weight of
    the attention relations.
    """

    def __init__(
        self,
        *,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        labels: Sequence[str],
        temperature: float,
        alpha: float,
        hidden: bool,
        variances: Sequence[float] | None = None,
        firing: float = 0.0,
        firing_target: float | None = None,
        relations: float = 0.0,
    ) -> None:
        super().__init__()
        #: what was measured when the student was prepared; figures of the run
        self.figures: dict[str, float] = {}
        self._teacher = [teacher]
        self._takes = set(inspect.signature(teacher.forward).parameters) - {*labels, "labels"}
        self.labels, self.temperature, self.alpha = list(labels), temperature, alpha
        self.asks: Mapping[str, Any] = {"output_hidden_states": True} if hidden else {}
        for name, model in (("the student", student), ("the teacher", teacher)):
            takes = inspect.signature(model.forward).parameters.values()
            if hidden and not any(p.name == "output_hidden_states" or p.kind is p.VAR_KEYWORD for p in takes):
                raise UserError(
                    f"task.hidden: {name}, {type(model).__name__}, does not return hidden states; set task.hidden=false"
                )
        ours, theirs = _probed(student, self.asks), _probed(teacher, self.asks)
        for student_logits, teacher_logits in zip(
            _logits(ours, len(labels)), _logits(theirs, len(labels)), strict=True
        ):
            width, wide = student_logits.shape[-1], teacher_logits.shape[-1]
            if width != wide:
                raise UserError(f"task.teacher: it has {wide} outputs, the student has {width}")
        self.variances = variances
        self.firing, self._rates = firing, FiringRates(student, firing_target) if firing else None
        self.relations, self._related = relations, AttentionRelations(student, teacher) if relations else None
        self.layers: list[int] = []
        self.projections = nn.ModuleList()
        if hidden:
            self._match(ours, theirs)

    def _match(self, ours: Any, theirs: Any) -> None:
        """Choose the teacher's layer for each of the student's, and the projection to its width."""
        mine, its = ours["hidden_states"], theirs["hidden_states"]
        depth, deep = len(mine) - 1, len(its) - 1
        self.layers = [round(i * deep / max(depth, 1)) for i in range(depth + 1)]
        for state, layer in zip(mine, self.layers, strict=True):
            width, wide = state.shape[-1], its[layer].shape[-1]
            self.projections.append(nn.Identity() if width == wide else nn.Linear(width, wide, bias=False))

    def forward(self, outputs: Any, batch: Mapping[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """The loss, as `sj_lang.task.Objective` defines it."""
        teacher = self._ready(outputs)
        inputs = {name: value for name, value in batch.items() if name in self._takes}
        with torch.no_grad():
            taught = teacher(**inputs, **self.asks)
        labels = [batch[name] for name in self.labels]
        count = (labels[0] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        extra = self._soft(outputs, taught, labels) / count
        if self.layers:
            extra = extra + self._far(outputs, taught, batch, labels[0]) / count
        if self._related is not None:
            extra = extra + self.relations * (self._related() * scored_of_each(labels[0])).sum() / count
        task_loss: Tensor = outputs["loss"]
        loss = (1 - self.alpha) * task_loss + self.alpha * extra
        if self._rates is not None:
            loss = loss + self.firing * (self._rates() * scored_of_each(labels[0])).sum() / count
        return loss

    def _ready(self, outputs: Any) -> PreTrainedModel:
        device = outputs["loss"].device
        if self._teacher[0].device != device:
            self._teacher[0] = self._teacher[0].to(device)
        return self._teacher[0]

    def _soft(self, outputs: Any, taught: Any, labels: list[Tensor]) -> Tensor:
        """Sum over labels of the first kind; another (next sentence) counts as its sample's do."""
        total: Tensor = outputs["loss"].new_zeros(())
        ours, theirs = _logits(outputs, len(labels)), _logits(taught, len(labels))
        for student_logits, teacher_logits, label in zip(ours, theirs, labels, strict=True):
            at = label != IGNORED
            taught_logits = teacher_logits[at].float()  # [M, classes]
            if student_logits.shape != taught_logits.shape:  # some models give scored ones only
                student_logits = student_logits[at]
            chosen = student_logits.float()
            if student_logits.shape[-1] == 1:
                each = (chosen - taught_logits).square().sum(-1)
            else:
                soft = functional.log_softmax(chosen / self.temperature, -1)
                target = functional.softmax(taught_logits / self.temperature, -1)
                each = -(self.temperature**2) * (target * soft).sum(-1)
            if label is not labels[0]:
                each = each * scored_of_each(labels[0])[at.nonzero()[:, 0]]
            total = total + each.sum()
        return total

    def _far(self, outputs: Any, taught: Any, batch: Mapping[str, Any], label: Tensor) -> Tensor:
        """Mean squares of each sample, summed with the sample's number of labels."""
        mask = batch.get("attention_mask")
        mask = torch.ones_like(batch["input_ids"]) if mask is None else mask
        weight = mask / mask.sum(1, keepdim=True)  # [B, L]
        total: Tensor = outputs["loss"].new_zeros(())
        for state, layer, project in zip(outputs["hidden_states"], self.layers, self.projections, strict=True):
            squares = (project(state).float() - taught["hidden_states"][layer].float()).square().mean(-1)
            if self.variances is not None:
                squares = squares / self.variances[layer]
            total = total + ((squares * weight).sum(1) * scored_of_each(label)).sum()
        return total / len(self.layers)


def _logits(outputs: Any, number: int) -> list[Tensor]:
    """The outputs for the labels: `logits`, or the first `number` whose names end in it."""
    logits = [value for name, value in outputs.items() if name.endswith("logits")]
    return logits[:number]


def _probed(model: PreTrainedModel, asks: Mapping[str, Any]) -> Any:
    ids = torch.ones(1, _PROBE, dtype=torch.long, device=model.device)
    with undisturbed(model):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **asks)
