"""Attention relations in distillation's loss: by hand, with padding and accumulation; refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.tasks.distillation import Distillation
from sj_lang_language.tasks.distillation.loss import DistillationLoss
from sj_lang_language.tasks.distillation.relations import AttentionRelations
from test_firing_in_the_loss import INTEGER, STILL, batch, loss_of
from tiny_bert import build
from torch import Tensor, nn

from sj_lang.errors import UserError


def student(**options: Any) -> Any:
    return build("bpsn", **STILL, neuron=INTEGER, scaled=True, **options).train()


def loss(model: Any, teacher: Any, relations: float) -> DistillationLoss:
    return DistillationLoss(
        student=model, teacher=teacher, labels=["labels"], temperature=1.0, alpha=1.0, hidden=True, relations=relations
    )


def values(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What the spikes of Q, K and V stand for, `[L, B, 3D]` of each layer."""
    seen: list[Tensor] = []
    hooks = [
        layer.attention.self.qkv.register_forward_hook(
            lambda layer, args, output: seen.append(
                output[0] if layer.scale is None else output[0] * layer.scale + layer.shift
            )
        )
        for layer in model.base_model.encoder.layer
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_it_is_the_mean_over_valid_tokens_written_out() -> None:
    model, teacher = student(), build("twin", gelu=True).eval()
    inputs = batch(3)
    heads = model.config.num_attention_heads
    expected = torch.zeros(3)
    layers = list(zip(values(model, inputs), values(teacher, inputs), strict=True))
    for sample in range(3):
        length = int(inputs["attention_mask"][sample].sum())
        for ours, theirs in layers:
            ours, theirs = (x[:length, sample].unflatten(-1, (3, heads, -1)) for x in (ours, theirs))
            for part in range(3):
                for head in range(heads):
                    p, q = (x[:, part, head] @ x[:, part, head].T / x.shape[-1] ** 0.5 for x in (theirs, ours))
                    kl = nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum")
                    expected[sample] += kl / (length * 3 * heads * len(layers))
    relations = AttentionRelations(model, teacher)
    model(**inputs)
    with torch.no_grad():
        teacher(**{name: value for name, value in inputs.items() if name != "labels"})
    assert expected.min() > 0
    torch.testing.assert_close(relations().detach(), expected, rtol=1e-4, atol=1e-6)


def test_padding_has_no_part_in_it() -> None:
    inputs = batch()
    longer = {n: nn.functional.pad(v, (0, 3)) if v.dim() > 1 else v for n, v in inputs.items()}
    teacher = build("twin", gelu=True).eval()
    model = student()
    compared = loss(model, teacher, 3.0)
    assert loss_of(model, compared, longer, None).item() == pytest.approx(loss_of(model, compared, inputs, None).item())
    assert loss_of(model, loss(model, teacher, 0.0), inputs, None) < loss_of(model, compared, inputs, None)


def test_it_is_exact_under_gradient_accumulation() -> None:
    gradients: list[dict[str, Tensor]] = []
    for parts in (1, 4):
        model = student().double()  # in float32 a row's rounding depends on its place in a batch
        compared = loss(model, build("twin", gelu=True).double().eval(), 3.0).double()
        for start in range(0, 8, 8 // parts):
            piece = {n: v[start : start + 8 // parts] for n, v in batch().items()}
            loss_of(model, compared, piece, 8).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-3, atol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.relations: -1\.0; give the weight of the attention relations, 0 or"):
        Distillation(task=None, teacher="", relations=-1.0)
    with pytest.raises(UserError, match=r"task\.relations: the student, .* has repeat coding; set task\.relations=0"):
        AttentionRelations(build("bpsn", coding="repeat", timesteps=2), build("twin"))
    with pytest.raises(UserError, match=r"the teacher, Linear, has no attention of sj-lang-language; set"):
        AttentionRelations(student(), nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the teacher has 2 heads, the student 4; give them the same number"):
        AttentionRelations(student(num_attention_heads=4), build("twin"))
