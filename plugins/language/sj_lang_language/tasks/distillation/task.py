"""Distillation: learn a task from its labels and from a teacher that can do it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from sj_lang.build import Make
from sj_lang.component.schema import Part
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared, Task
from sj_lang_language.tasks.distillation.loss import DistillationLoss
from sj_lang_language.tasks.distillation.start import calibrate, start_from
from sj_lang_language.tasks.distillation.teacher import load_teacher
from sj_lang_language.tasks.firing import check_price

if TYPE_CHECKING:  # a type checker reads a name in quotes as a class
    AnotherTask = Make
else:
    AnotherTask = Part["task"]


class Distillation(Task):
    """Another task with a teacher (Hinton, Vinyals, Dean 2015; Romero et al. 2015).

        loss = (1 - alpha) own + alpha (soft + match + relations missed) + firing rate
        soft  = t^2 H(softmax(teacher / t), softmax(student / t)), nats, t the temperature
        match = mean over layers of |W h_student - h_teacher|^2 / teacher's width   (hidden: true)
        missed = mean over tokens of what the student's attention relations lack
        rate  = mean over layers of neurons of |spikes| / largest spike

    task: the task that is learned; its figures are this one's.
    teacher: a model of transformers for the same task, with the same tokenizer: a folder, also of a
        run, package:NAME or hub:OWNER/NAME. It is frozen and in evaluation mode.
    temperature: softens both distributions. alpha: the teacher's share of the loss, 0 to 1.
    hidden: also match hidden states. Student layer i of n meets teacher layer round(i N / n) of N,
        the embeddings (layer 0) each other; if the widths differ, W is a learned matrix for each
        layer, else the identity (ours).

    start: the student begins with the teacher's weights, wherever both have a tensor of that name;
        all of the teacher's must be there. calibrate: sentences of the training data, drawn with
        the run's seed, on which the student's spikes and Linear layers are then fitted to the
        teacher's (see `calibration`), and on which the variances of its hidden states are measured:
        match is divided by them. 0: neither.
    spike_price: what a spike costs in this calibration (see `fit_spikes` there); 0: nothing.
    embeddings: they are trained; False: they stay as they are.
    firing: weight of the student's firing rate in the loss; 0: what it fires costs nothing.
    firing_target: a rate between 0 and 1; then `firing` weighs each layer's distance to it. None:
        the rate itself.
    relations: weight of the attention relations, see `AttentionRelations`; 0: they do not count.

    H is taken where the own loss is, at labels that are not -100, and is averaged over them. The
    squares are averaged over the tokens of a sample that are no padding, and over the samples by
    their number of labels. So all parts are exact under gradient accumulation (ours). For a
    regression, soft is the squared difference. The parameters of W are trained and lie in
    checkpoints; only the student is stored.
    """

    def __init__(
        self,
        *,
        task: AnotherTask,
        teacher: str,
        temperature: float = 2.0,
        alpha: float = 0.5,
        hidden: bool = True,
        start: bool = False,
        calibrate: int = 0,
        spike_price: float = 0.0,
        embeddings: bool = True,
        firing: float = 0.0,
        firing_target: float | None = None,
        relations: float = 0.0,
    ) -> None:
        if not 0 <= relations < math.inf:
            raise UserError(f"task.relations: {relations}; give the weight of the attention relations, 0 or more")
        check_price(firing, firing_target)
        if not 0 <= spike_price < math.inf:
            raise UserError(f"task.spike_price: {spike_price}; give what a spike costs in the calibration, 0 or more")
        if spike_price and not calibrate:
            raise UserError("task.spike_price: there is no calibration; set task.calibrate, such as to 256")
        if calibrate < 0:
            raise UserError(f"task.calibrate: {calibrate} sentences; give how many, or 0 for no calibration")
        if temperature <= 0 or not 0 <= alpha <= 1:
            raise UserError(f"task: temperature {temperature} must be above 0 and alpha {alpha} between 0 and 1")
        if not isinstance(task, Make):
            raise UserError(f"task.task: expected a task, found {task!r}")
        with _inside():
            self.task: Task = task()
        if isinstance(self.task, Distillation):
            raise UserError("task.task: a distillation cannot wrap a distillation")
        self.teacher, self.temperature, self.alpha, self.hidden = teacher, temperature, alpha, hidden
        self.start, self.calibrate, self.spike_price = start, calibrate, spike_price
        self.embeddings, self.firing, self.relations = embeddings, firing, relations
        self.firing_target = firing_target
        self.auto_class, self.causal, self.pads = self.task.auto_class, self.task.causal, self.task.pads

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """The task's own data, and the teacher's loss, which is built with the model."""
        with _inside():
            ready = self.task.prepare(tokenizer, seed=seed)
        if ready.objective is not None:
            raise UserError("task.task: it has a loss of its own; set task.firing in the place of task.task.firing")
        return dataclasses.replace(ready, objective=self._objective(ready, seed))

    def outline(self) -> Mapping[str, Any]:
        return self.task.outline()

    def sample_prompt(self, prepared: Prepared) -> str | None:
        return self.task.sample_prompt(prepared)

    def _objective(self, ready: Prepared, seed: int) -> Callable[[PreTrainedModel], DistillationLoss]:
        def build(student: PreTrainedModel) -> DistillationLoss:
            teacher = load_teacher(self.teacher, self.auto_class, student, ready)
            if self.start:
                start_from(student, teacher)
            figures: dict[str, float] = {}
            variances: list[float] | None = None
            if self.calibrate:
                figures, variances = calibrate(student, teacher, ready, self.calibrate, seed, self.spike_price)
            if not self.embeddings:
                student.base_model.embeddings.requires_grad_(False)
            loss = DistillationLoss(
                student=student,
                teacher=teacher,
                labels=ready.label_names or ["labels"],
                temperature=self.temperature,
                alpha=self.alpha,
                hidden=self.hidden,
                variances=variances,
                firing=self.firing,
                firing_target=self.firing_target,
                relations=self.relations,
            )
            loss.figures = figures
            return loss

        return build


@contextmanager
def _inside() -> Iterator[None]:
    """The wrapped task speaks of `task...`, which is `task.task...` in the recipe."""
    try:
        yield
    except UserError as error:
        text = str(error)
        raise type(error)(f"task.{text}" if text.startswith("task") else text) from error
