"""The firing rate of a model as a part of its loss, in a distillation and in language modelling:
what it is, what it does, what it refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from sj_lang_language.tasks.causal_lm import CausalLM
from sj_lang_language.tasks.distillation import Distillation
from sj_lang_language.tasks.distillation.loss import DistillationLoss
from tiny_bert import build
from torch import Tensor
from transformers import PreTrainedModel

from sj_lang.build import part as build_part
from sj_lang.errors import UserError
from sj_lang.monitor import Monitor

INTEGER: dict[str, Any] = {"type": "bpsn", "variant": "G", "spikes": "integer", "levels": 3, "offset": True}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "integer": {"neuron": INTEGER, "scaled": True},
    "unsigned": {"neuron": {**INTEGER, "signed": False}, "scaled": True},
    "binary": {"attention": {"type": "softmax", "scale": 5.7, "gain": 4.0}},
    "repeat": {"coding": "repeat", "timesteps": 3},
}


def pair(kind: str = "integer", firing: float = 2.0, alpha: float = 0.5, **more: Any) -> tuple[Any, DistillationLoss]:
    """A student in training mode, and its loss."""
    student, teacher = build("bpsn", **{**STILL, **KINDS[kind]}), build("twin", gelu=True)
    loss = DistillationLoss(
        student=student,
        teacher=teacher,
        labels=["labels"],
        temperature=1.0,
        alpha=alpha,
        hidden=True,
        firing=firing,
        **more,
    )
    return student.train(), loss


def batch(sentences: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(4, 12, (sentences, 1), generator=generator)
    return {
        "input_ids": torch.randint(0, 23, (sentences, 11), generator=generator),
        "attention_mask": (torch.arange(11) < lengths).long(),
        "labels": torch.randint(0, 2, (sentences,), generator=generator),
    }


def checkpointed(model: Any, *, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def loss_of(student: PreTrainedModel, loss: DistillationLoss, inputs: dict[str, Tensor], items: int | None) -> Tensor:
    return loss(student(**inputs, **loss.asks), inputs, items)


@pytest.mark.parametrize("kind", KINDS)
def test_it_adds_the_rate_that_a_monitor_counts(kind: str) -> None:
    """Of one sentence without padding at a time, so that each neuron step weighs alike in both."""
    (student, with_rate), (other, without) = pair(kind), pair(kind, firing=0.0)
    for place in range(3):
        inputs = {name: value[place : place + 1] for name, value in batch().items()}
        inputs = {name: v[:, : int(inputs["attention_mask"].sum())] if v.dim() > 1 else v for name, v in inputs.items()}
        monitor = Monitor(student)
        with monitor.recording():
            total = loss_of(student, with_rate, inputs, None)
        rates = [layer.rate for layer in monitor.layers.values()]
        assert sum(rates) > 0
        added = 2.0 * sum(rates) / len(rates)
        assert total.item() == pytest.approx(loss_of(other, without, inputs, None).item() + added, rel=1e-5)


def test_padding_has_no_part_in_it() -> None:
    student, loss = pair()
    inputs = batch()
    longer = {n: torch.nn.functional.pad(v, (0, 3)) if v.dim() > 1 else v for n, v in inputs.items()}
    assert loss_of(student, loss, longer, None).item() == pytest.approx(loss_of(student, loss, inputs, None).item())


def gradients(parts: int) -> dict[str, Tensor]:
    # the rounding of a row depends on its place in a batch
    student, loss = (part.double() for part in pair(alpha=1.0))
    inputs = batch()
    for start in range(0, 8, 8 // parts):
        loss_of(student, loss, {n: v[start : start + 8 // parts] for n, v in inputs.items()}, 8).backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def test_it_is_exact_under_gradient_accumulation() -> None:
    whole = gradients(1)
    for name, gradient in gradients(4).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-5)


def test_a_student_that_pays_for_it_fires_less() -> None:
    rates = {}
    for firing in (0.0, 50.0):
        student, loss = pair(firing=firing)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(student, loss, batch(), None).backward()
            optimizer.step()
        monitor = Monitor(student)
        with monitor.recording(), torch.no_grad():
            student(**batch())
        rates[firing] = monitor.figures()["firing_rate.mean"]
    assert rates[50.0] < 0.9 * rates[0.0]


@pytest.mark.parametrize("target", [0.05, 0.6])
def test_a_target_is_reached_from_both_sides(target: float) -> None:
    torch.manual_seed(0)
    student, loss = pair("unsigned", firing=50.0, firing_target=target)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    distances = []
    for _ in range(30):
        monitor = Monitor(student)
        optimizer.zero_grad()
        with monitor.recording():
            loss_of(student, loss, batch(), None).backward()
        optimizer.step()
        distances.append(sum(abs(layer.rate - target) for layer in monitor.layers.values()))
    assert distances[-1] < 0.6 * distances[0]


def test_checkpoints_that_are_not_reentrant_give_the_same_gradients() -> None:
    found = []
    for checkpoints in (False, True):
        student, loss = pair()
        if checkpoints:
            checkpointed(student, reentrant=False)
        for _ in range(2):
            loss_of(student, loss, batch(), None).backward()
        found.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_what_is_refused() -> None:
    for target in (0.0, 1.0, -0.2, float("nan")):
        with pytest.raises(UserError, match=r"task\.firing_target: .*; give a firing rate between 0 and 1"):
            Distillation(task=None, teacher="", firing=1.0, firing_target=target)
    with pytest.raises(UserError, match=r"task\.firing_target: it has no weight in the loss; set task\.firing"):
        Distillation(task=None, teacher="", firing_target=0.1)
    with pytest.raises(UserError, match=r"task\.firing: -1\.0; give the weight of the firing rate in the loss, 0 or m"):
        Distillation(task=None, teacher="", firing=-1.0)
    with pytest.raises(
        UserError, match=r"task\.spike_price: -1\.0; give what a spike costs in the calibration, 0 or mor"
    ):
        Distillation(task=None, teacher="", spike_price=-1.0)
    with pytest.raises(UserError, match=r"task\.spike_price: there is no calibration; set task\.calibrate"):
        Distillation(task=None, teacher="", spike_price=0.03)
    with pytest.raises(UserError, match=r"task\.firing: .* has no spiking neurons; set task\.firing=0"):
        DistillationLoss(
            student=build("twin"), teacher=build("twin"), labels=[], temperature=1, alpha=1, hidden=False, firing=1
        )
    student, loss = pair()
    checkpointed(student, reentrant=True)
    with pytest.raises(UserError, match=r"not all layers of neurons were seen with a gradient, as with reentrant"):
        loss_of(student, loss, batch(), None)


def decoder() -> SpikeDecoderForCausalLM:
    torch.manual_seed(0)
    return SpikeDecoderForCausalLM(
        SpikeDecoderConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).train()


def text_task(tmp_path: Path, **options: Any) -> CausalLM:
    (tmp_path / "book.txt").write_text("".join(f"{number} bottles of beer.\n" for number in range(100)))
    return CausalLM(data=str(tmp_path / "book.txt"), length=12, split=(0.8, 0.0, 0.2), **options)


@pytest.mark.parametrize("target", [None, 0.3])
def test_a_language_model_pays_without_a_teacher(tmp_path: Path, target: float | None) -> None:
    """The rate is that of a monitor, and four micro-batches have the gradient of one."""
    ready = text_task(tmp_path, firing=2.0, firing_target=target).prepare(build_part("tokenizer", "characters"), seed=0)
    assert ready.objective is not None
    assert ready.collate is not None
    model = decoder().double()
    objective, inputs = ready.objective(model), ready.collate([ready.train[place] for place in range(8)])
    monitor = Monitor(model)
    with monitor.recording():
        outputs = model(**inputs)
        total = objective(outputs, inputs, None)
    rates = [layer.rate if target is None else abs(layer.rate - target) for layer in monitor.layers.values()]
    if target is None:
        assert total.item() == pytest.approx(outputs.loss.item() + 2.0 * sum(rates) / len(rates), rel=1e-6)
    else:  # each sample has its own distance, which is at least that of the mean
        assert total.item() >= outputs.loss.item() + 2.0 * sum(rates) / len(rates) - 1e-9
    whole = torch.autograd.grad(total, list(model.parameters()))
    items = inputs["shift_labels"].numel()
    for start in range(0, 8, 2):
        part = {name: value[start : start + 2] for name, value in inputs.items()}
        objective(model(**part, num_items_in_batch=items), part, items).backward()
    for gradient, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_a_language_model_that_pays_nothing_has_its_own_loss(tmp_path: Path) -> None:
    assert text_task(tmp_path).prepare(build_part("tokenizer", "characters"), seed=0).objective is None
    with pytest.raises(UserError, match=r"task\.firing_target: it has no weight in the loss; set task\.firing"):
        text_task(tmp_path, firing_target=0.1)


def test_one_price_is_asked_not_two(tmp_path: Path) -> None:
    text_task(tmp_path)
    priced = {"type": "causal_lm", "data": str(tmp_path / "book.txt"), "length": 12, "firing": 1.0}
    task = build_part("task", {"type": "distillation", "task": priced, "teacher": str(tmp_path)})()
    with pytest.raises(UserError, match=r"task\.task: .*; set task\.firing in the place of task\.task\.firing"):
        task.prepare(build_part("tokenizer", "characters"), seed=0)
