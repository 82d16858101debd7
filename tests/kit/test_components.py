"""The kits of attentions, embeddings and norms: healthy parts pass, each planted fault is named."""

import re

import pytest
import torch
from torch import nn

from sj_lang.testing.components import PartFailed, check_attention, check_embedding, check_norm


class Norm(nn.Module):
    """Over the batch in training, by running figures in evaluation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(6))
        self.register_buffer("size", torch.empty(6))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.constant_(self.weight, 0.5)
        nn.init.ones_(self.size)

    def valid(self, x, mask):
        return x.reshape(-1, 6) if mask is None else x[mask]

    def forward(self, x, mask=None):
        if not self.training:
            return x * (self.weight * self.size.rsqrt()).to(x.dtype)
        size = self.valid(x, mask).square().mean(0) + 1e-3
        self.size.lerp_(size.detach(), 0.1)
        x = x if mask is None else x.masked_fill(~mask[..., None], 0)
        return x * size.rsqrt() * self.weight


class CountsPadding(Norm):
    def valid(self, x, mask):
        return x.nan_to_num(0).reshape(-1, 6)


class ReturnsFloat32(Norm):
    def forward(self, x, mask=None):
        return super().forward(x, mask).float()


class StatisticsWithoutGradient(Norm):
    def valid(self, x, mask):
        return super().valid(x, mask).detach()


class BatchInEval(Norm):
    def forward(self, x, mask=None):
        y = super().forward(x, mask)
        return y if self.training else y - y.nan_to_num(0).mean(1, keepdim=True)


class KeepsRunningFigures(Norm):
    def reset_parameters(self):
        nn.init.constant_(self.weight, 0.5)
        if not hasattr(self, "begun"):
            nn.init.ones_(self.size)
        self.begun = True


class RepeatsMixed(Norm):
    def forward(self, x, mask=None):
        y = super().forward(x, mask)
        return y - y.nan_to_num(0).mean(2, keepdim=True) if x.dim() == 4 else y


class LearnsInEval(Norm):
    def forward(self, x, mask=None):
        self.size.mul_(1.0 if self.training else 1.001)
        return super().forward(x, mask)


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(7, 6)
        self.place = nn.Embedding(9, 6)

    def forward(self, ids, positions, segments=None, mask=None, vectors=None):
        return (self.token(ids) if vectors is None else vectors) + self.place(positions)


class ReadsThePaddingBefore(Embedding):
    def forward(self, ids, positions, segments=None, mask=None):
        x = super().forward(ids, positions)
        return x + torch.cat((torch.zeros_like(x[:1]), x[:-1]))


class VectorsHaveNoPlace(Embedding):
    def forward(self, ids, positions, segments=None, mask=None, vectors=None):
        return super().forward(ids, positions) if vectors is None else vectors


class BatchFirst(Embedding):
    def forward(self, ids, positions, segments=None, mask=None):
        return super().forward(ids, positions).transpose(0, 1)


class TextsMixed(Embedding):
    def forward(self, ids, positions, segments=None, mask=None):
        x = super().forward(ids, positions)
        return x - x.mean(1, keepdim=True)


class SeesTheNextToken(Embedding):
    def forward(self, ids, positions, segments=None, mask=None):
        x = super().forward(ids, positions)
        return x + torch.cat((x[1:], torch.zeros_like(x[:1])))


class PlacesDoNotLearn(Embedding):
    def forward(self, ids, positions, segments=None, mask=None):
        return self.token(ids) + self.place(positions).detach()


class Attention(nn.Module):
    """Linear attention, O_t = Q_t sum_{s <= t} K_s^T V_s, its state the sum."""

    ahead = 0

    def __init__(self):
        super().__init__()
        self.parts = nn.Linear(6, 18)

    def forward(self, x, state=None, mask=None):
        if x.dim() == 4:
            rows = None if mask is None else mask.flatten(0, 1).T
            return self.attend(x.flatten(0, 1).transpose(0, 1), None, rows)[0].transpose(0, 1).view(x.shape), {}
        return self.attend(x, state, mask)

    def attend(self, x, state, mask):
        q, k, v = self.parts(x).transpose(0, 1).chunk(3, -1)  # [B, L, D]
        k = k if mask is None else k.masked_fill(~mask.T[..., None], 0)
        before = torch.zeros(len(q), 6, 6, dtype=x.dtype) if state is None else state["kv"]
        o = self.seen(q @ k.mT) @ v + q @ before
        return o.transpose(0, 1), self.after(before, k.mT @ v)

    def seen(self, scores):
        return scores.tril(self.ahead)

    def after(self, before, seen):
        return {"kv": before + seen}


class ReadsTheNextTokenAtOddOnes(Attention):
    def seen(self, scores):
        odd = torch.arange(scores.shape[-1])[:, None] % 2
        return torch.where(odd == 1, scores.tril(1), scores.tril())


class ReadsTheNextTokenOfLongTexts(Attention):
    def seen(self, scores):
        return scores.tril(int(scores.shape[-1] > 32))


class ReadsTheNextTokenInTraining(Attention):
    def seen(self, scores):
        return scores.tril(int(self.training))


class NormsOverTheBatch(Attention):
    """Healthy: what a batch norm mixes in training is no look ahead."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def attend(self, x, state, mask):
        y, after = super().attend(x, state, mask)
        return self.norm(y.flatten(0, 1)).view(y.shape), after


class SeesTwelveTokensOfAWhole(Attention):
    def seen(self, scores):
        return scores.tril().triu(-12)


class Repeats(Attention):
    """Healthy, but in repeat coding."""

    def forward(self, x, state=None, mask=None):
        return self.repeated(x, mask) if x.dim() == 4 else self.attend(x, state, mask)


class RepeatsReadTheNextToken(Repeats):
    def repeated(self, x, mask):
        y, after = Attention.forward(self, x, None, mask)
        return y + y.roll(-1, 2), after


class RepeatsIgnoreMasks(Repeats):
    def repeated(self, x, mask):
        return Attention.forward(self, x)


class RepeatsMixTexts(Repeats):
    def repeated(self, x, mask):
        y, after = Attention.forward(self, x, None, mask)
        return y + y.roll(1, 1), after


class ReadsTheNextToken(Attention):
    ahead = 1


class Whole(Attention):
    ahead = 99

    def after(self, before, seen):
        return {}


class MasksAreIgnored(Attention):
    def attend(self, x, state, mask):
        return super().attend(x, state, None)


class ForgetsWhatWasBefore(Attention):
    def after(self, before, seen):
        return {"kv": seen}


class WritesToTheState(Attention):
    def after(self, before, seen):
        return {"kv": before.detach().add_(seen.detach())}


class RowsMixed(Attention):
    def attend(self, x, state, mask):
        return super().attend(x - 0.1 * x.sum(1, keepdim=True), state, mask)


class ValuesDoNotLearn(Attention):
    def attend(self, x, state, mask):
        o, after = super().attend(x, state, mask)
        return o.detach(), after


NORM = (check_norm, {"dim": 6})
EMBEDDING = (check_embedding, {"vocab_size": 7, "dim": 6, "causal": True})
ATTENTION = (check_attention, {"dim": 6, "causal": True})
WHOLE = (check_attention, {"dim": 6, "causal": False})

FAULTS = [
    (NORM, CountsPadding, "padding_is_removal", r"padding right, train\(\), x \[9, 4, 6\]: against the valid alone"),
    (NORM, ReturnsFloat32, "shapes_and_dtypes", "returns torch.float32 for torch.float64"),
    (NORM, StatisticsWithoutGradient, "gradients_are_exact", "raised GradcheckError"),
    (NORM, BatchInEval, "eval_is_per_position", r"one position alone against x \[9, 4, 6\]"),
    (NORM, KeepsRunningFigures, "reset_parameters_begins_anew", r"'size' after reset_parameters\(\)"),
    (EMBEDDING, BatchFirst, "shapes_and_dtypes", r"returns shape \[4, 9, 6\], it must be \[9, 4, 6\]"),
    (EMBEDDING, TextsMixed, "texts_do_not_mix", r"a text alone against ids \[9, 4\]"),
    (EMBEDDING, SeesTheNextToken, "causal_as_declared", "tokens from 1 on reach those before, of 9"),
    (EMBEDDING, SeesTheNextToken, "padding_is_removal", "text 0, 7 of 9 tokens valid, against these alone"),
    (EMBEDDING, PlacesDoNotLearn, "gradients_reach_all", r"no gradient for 'place.weight', output \[9, 4, 6\]"),
    (NORM, RepeatsMixed, "padding_is_removal", r"padding right, train\(\), x \[2, 4, 9, 6\]: against the valid"),
    (NORM, RepeatsMixed, "eval_is_per_position", r"one position alone against x \[2, 4, 9, 6\]"),
    (NORM, LearnsInEval, "eval_is_per_position", r"eval\(\): 'size' after a call"),
    (EMBEDDING, ReadsThePaddingBefore, "padding_is_removal", "padding left, text 0, 7 of 9 tokens valid"),
    (EMBEDDING, VectorsHaveNoPlace, "vectors_stand_for_the_table", "vectors= of the table's rows, against ids"),
    (ATTENTION, ReadsTheNextTokenAtOddOnes, "causal_as_declared", r"tokens from 2 on of x \[9, 4, 6\]"),
    (ATTENTION, ReadsTheNextTokenOfLongTexts, "causal_as_declared", r"tokens from 31 on of x \[70, 1, 6\]"),
    (ATTENTION, ReadsTheNextTokenInTraining, "causal_as_declared", r"in train\(\) 1 tokens see later ones"),
    (ATTENTION, SeesTwelveTokensOfAWhole, "pieces_equal_whole", r"pieces of \(37, 1, 32\) against the whole"),
    (ATTENTION, RepeatsReadTheNextToken, "causal_as_declared", r"tokens from 1 on of x \[2, 4, 9, 6\]"),
    (ATTENTION, RepeatsIgnoreMasks, "padding_is_removal", r"padding left, x \[2, 4, 9, 6\], text 0"),
    (ATTENTION, RepeatsMixTexts, "texts_do_not_mix", r"a text alone against x \[2, 4, 9, 6\]"),
    (ATTENTION, ReadsTheNextToken, "causal_as_declared", r"tokens from 1 on of x \[9, 4, 6\] reach those before"),
    (ATTENTION, Whole, "causal_as_declared", r"tokens from 1 on of x \[9, 4, 6\] reach those before"),
    (WHOLE, Attention, "causal_as_declared", "declared not causal, but no token of 9 reaches one before it"),
    (WHOLE, ReadsTheNextToken, "shapes_and_dtypes", r"reads a text as a whole, and returns the state \['kv'\]"),
    (
        ATTENTION,
        MasksAreIgnored,
        "padding_is_removal",
        r"padding left, x \[9, 4, 6\], text 0 against its valid tokens",
    ),
    (ATTENTION, ForgetsWhatWasBefore, "pieces_equal_whole", r"pieces of \(1, 1, .* against the whole, x \[9, 4, 6\]"),
    (ATTENTION, WritesToTheState, "pieces_equal_whole", "the state 'kv' that was handed in, after the call"),
    (ATTENTION, RowsMixed, "texts_do_not_mix", r"a text alone against x \[9, 4, 6\]"),
    (ATTENTION, ValuesDoNotLearn, "gradients_reach_all", "raised RuntimeError: element 0 of tensors does not require"),
]


@pytest.mark.parametrize(("kit", "part", "check", "says"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(kit, part, check, says):
    run, options = kit
    with pytest.raises(PartFailed) as caught:
        run(part, **options)
    assert re.search(says, caught.value.failures[check]), str(caught.value)
    assert f"  {check}: " in str(caught.value)


@pytest.mark.parametrize(
    ("kit", "part"),
    [(NORM, Norm), (EMBEDDING, Embedding), (ATTENTION, Attention), (WHOLE, Whole), (ATTENTION, NormsOverTheBatch)],
)
def test_a_healthy_part_passes(kit, part):
    run, options = kit
    assert len(run(part, **options)) >= 5
