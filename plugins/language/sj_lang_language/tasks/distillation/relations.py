"""How tokens relate in the attention of student and teacher, as a part of the loss."""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sj_lang.errors import UserError
from sj_lang_language.layers import SpikingLayer


class AttentionModule(Protocol):
    """The attributes of a module of self-attention that are read."""

    heads: int
    #: Q, K and V side by side
    qkv: SpikingLayer
    #: scale and shift of their spikes, `[3, H, 1, K]` each; None: spikes stand for themselves
    values: tuple[Tensor, Tensor] | None


class AttentionRelations:
    """How far the student's relations are from the teacher's (Wang et al., MiniLMv2, 2012.15828).

        R_X = softmax(X X^T / sqrt(K)),  X = Q, K, V of a head
        missed = mean over layers, X and heads of KL(R_X of the teacher | R_X of the student)

    The paper has one layer and large teachers; all layers are ours. X of the student are the values
    that its spikes stand for. Attention i of the student's n meets that of the teacher's N at the
    same relative depth. Both are watched as long as they live. UserError unless both have
    individual coding, attention of this package, and the same number of heads.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        mine, theirs = _attentions(student, "the student"), _attentions(teacher, "the teacher")
        depths = [round((index + 1) * len(theirs) / len(mine)) - 1 for index in range(len(mine))]
        self._pairs = [(module, theirs[max(depth, 0)]) for module, depth in zip(mine, depths, strict=True)]
        for one, other in self._pairs:
            if one.heads != other.heads:
                raise UserError(
                    f"task.relations: the teacher has {other.heads} heads, the student {one.heads}; give them the same "
                    "number, or set task.relations=0"
                )
        self._masks: dict[AttentionModule, Tensor | None] = {}
        self._vectors: dict[AttentionModule, Tensor] = {}
        for module in {*mine, *theirs}:
            module.qkv.register_forward_hook(self._keeper(module))

    def _keeper(self, module: AttentionModule) -> Any:
        def keep(layer: Any, args: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
            # [3, B, H, L, K]
            vectors = torch.unflatten(output[0], -1, (3, module.heads, -1)).permute(2, 1, 3, 0, 4)
            if module.values is not None:
                scale, shift = module.values
                vectors = torch.addcmul(shift.unsqueeze(1), vectors.to(shift.dtype), scale.unsqueeze(1))
            self._vectors[module], self._masks[module] = vectors, args[2]

        return keep

    def __call__(self) -> Tensor:
        """`[B]`, the mean over the valid tokens of each sample, in the last pass."""
        layers = []
        for one, other in self._pairs:
            mask = self._masks[one]  # [L, B]
            ours, theirs = (_log_relations(self._vectors[module], mask) for module in (one, other))
            missed = (theirs.exp() * (theirs - ours)).sum(-1).mean((0, 2))  # [B, L]
            valid = torch.ones_like(missed) if mask is None else mask.T.to(missed)
            layers.append((missed * valid).sum(1) / valid.sum(1).clamp(min=1))
        self._vectors.clear()
        return torch.stack(layers).mean(0)


def _log_relations(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """log R of `[3, B, H, L, K]` in float32; a masked token relates to nothing."""
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = vectors.float()
        scores = vectors @ vectors.mT / math.sqrt(vectors.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask.T[None, :, None, None].bool(), torch.finfo(scores.dtype).min)
        return scores.log_softmax(-1)


def _attentions(model: PreTrainedModel, name: str) -> list[AttentionModule]:
    has_qkv = [module for module in model.modules() if isinstance(getattr(module, "qkv", None), SpikingLayer)]
    attentions = cast(list[AttentionModule], has_qkv)
    if not attentions or getattr(model.config, "repeats", None):
        why = "has repeat coding" if attentions else "has no attention of sj-lang-language"
        raise UserError(f"task.relations: {name}, {type(model).__name__}, {why}; set task.relations=0")
    return attentions
