"""SNN-BERT: its twin is BERT, padding changes nothing, spikes are spikes, all of it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.layers import SpikingLayer
from sj_lang_language.models.snn_bert import (
    SNNBertConfig,
    SNNBertForMaskedLM,
    SNNBertForPreTraining,
    SNNBertForSequenceClassification,
    SNNBertForTokenClassification,
    SNNBertModel,
)
from tiny_bert import KINDS, TINY, build, texts
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from sj_lang.errors import UserError
from sj_lang.monitor import Monitor

HEADS = {
    SNNBertForMaskedLM: BertForMaskedLM,
    SNNBertForPreTraining: BertForPreTraining,
    SNNBertForSequenceClassification: BertForSequenceClassification,
    SNNBertForTokenClassification: BertForTokenClassification,
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def named(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter outside the neurons."""
    return {name: p for name, p in model.named_parameters() if ".node." not in name}


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_the_twin_is_bert(head: Any) -> None:
    torch.manual_seed(0)
    bert = HEADS[head](BertConfig(**TINY)).eval()
    twin = build("twin", head, layer_norm_eps=1e-12)
    found = twin.load_state_dict(bert.state_dict(), strict=False)
    assert found.missing_keys == []
    # tied to cls.predictions.bias
    assert set(found.unexpected_keys) <= {"cls.predictions.decoder.bias"}
    ids, segments = texts()
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    labels = {"labels": torch.tensor([0, 1, 1])}
    if "Sequence" not in head.__name__:
        labels = {"labels": (ids % 2).masked_fill(mask == 0, -100)}
    if head is SNNBertForPreTraining:
        labels["next_sentence_label"] = torch.tensor([1, 0, 1])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments, **labels}
    right, found = bert(**inputs), twin(**inputs)
    torch.testing.assert_close(found.loss, right.loss)
    for name in ("logits", "prediction_logits", "seq_relationship_logits"):
        if name in right:
            mine, its = found[name], right[name]
            if mine.dim() == 3:
                mine, its = mine[mask.bool()], its[mask.bool()]
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_all_kinds_have_berts_parameters_outside_the_neurons(kind: str) -> None:
    def shapes(model: Any) -> dict[str, torch.Size]:
        return {name: p.shape for name, p in named(model).items()}

    assert shapes(build(kind)) == shapes(build("twin")) == shapes(BertForSequenceClassification(BertConfig(**TINY)))


@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_no_output_and_no_gradient(kind: str, side: str) -> None:
    # the order of summation differs, and rounding with it
    model = build(kind, SNNBertForPreTraining).double()
    ids, segments = texts()
    text, parts, junk = ids[:1, :6], segments[:1, 3:9], torch.full((1, 3), 5)
    where = {
        "left": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]]),
        "right": torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0]]),
        "between": torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1, 1]]),
    }[side]
    valid = where.bool()

    def spread(x: torch.Tensor, filling: Any) -> torch.Tensor:
        return torch.zeros_like(where).masked_scatter(valid, x).masked_scatter(~valid, torch.as_tensor(filling))

    padded, padded_parts = spread(text, junk), spread(parts, torch.ones(3, dtype=torch.long))
    batch = {
        "input_ids": torch.cat([padded, ids[1:, :9]]),
        "token_type_ids": torch.cat([padded_parts, segments[1:, :9]]),
        "attention_mask": torch.cat([where, torch.ones(2, 9, dtype=torch.long)]),
    }
    with torch.no_grad():
        found, alone = model(**batch), model(text, token_type_ids=parts)
        others = model(ids[1:, :9], token_type_ids=segments[1:, :9])
    close = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(found.prediction_logits[0][valid[0]], alone.prediction_logits[0], **close)
    torch.testing.assert_close(found.prediction_logits[1:], others.prediction_logits, **close)
    torch.testing.assert_close(found.seq_relationship_logits[:1], alone.seq_relationship_logits, **close)

    def gradients(**inputs: Any) -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.train()
        model(next_sentence_label=torch.tensor([1]), **inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    mine = gradients(
        input_ids=padded, token_type_ids=padded_parts, attention_mask=where, labels=spread(text, [-100] * 3)
    )
    right = gradients(input_ids=text, token_type_ids=parts, labels=text)
    assert mine.keys() == right.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, right[name], rtol=1e-6, atol=1e-9, msg=name)


def test_spikes_enter_every_linear_of_a_layer(kind: str) -> None:
    model, entered = build(kind), []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layer." in name:
            module.register_forward_hook(lambda _module, inputs, _output: entered.append(inputs[0]))
    with torch.no_grad():
        model(*texts()[:1])
    levels = 4 if kind == "dsn" else 1
    assert len(entered) == 2 * 6
    values = torch.cat([x.flatten() for x in entered]).unique()
    if kind == "twin":
        assert len(values) > 100
    else:
        assert set(values.tolist()) <= set(range(levels + 1))
        assert levels in values


def test_firing_is_counted_at_every_neuron(kind: str) -> None:
    model = build(kind)
    monitor = Monitor(model)
    with torch.no_grad(), monitor.recording():
        model(*texts()[:1])
    rates = {name: value for name, value in monitor.figures().items() if name.startswith("firing_rate.bert")}
    assert len(rates) == (0 if kind == "twin" else 2 * 5)
    assert all(0 < rate < 1 for rate in rates.values())


def test_every_parameter_learns(kind: str) -> None:
    model = build(kind, SNNBertForPreTraining).train()
    ids, segments = texts()
    model(ids, None, segments, labels=ids, next_sentence_label=torch.tensor([1, 0, 1])).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias shifts all scores of a query alike, and softmax does not see it, but through a
    # neuron's threshold
    assert [name for name in silent if not (kind == "twin" and name.endswith("key.bias"))] == []


def test_hidden_states_are_those_of_each_layer(kind: str) -> None:
    model = build(kind, SNNBertModel)
    ids, _ = texts()
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        out = model(ids, mask, output_hidden_states=True)
    assert [tuple(x.shape) for x in out.hidden_states] == [(3, 11, 16)] * 3
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert not out.last_hidden_state[1, :4].any()
    assert model(ids, mask).hidden_states is None


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_reads_tokens_only(pooling: str) -> None:
    model = build("twin", SNNBertModel, pooling=pooling)
    ids, _ = texts()
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, 9:] = 0, 0
    with torch.no_grad():
        out = model(ids, mask)
    for row, valid, found in zip(out.last_hidden_state, mask.bool(), out.pooler_output, strict=True):
        tokens = row[valid]
        pooled = {"cls": tokens[0], "mean": tokens.mean(0), "max": tokens.amax(0)}[pooling]
        torch.testing.assert_close(found, torch.tanh(model.pooler.dense(pooled)).detach())


def test_a_text_without_any_token_is_finite(kind: str) -> None:
    model = build(kind)
    ids, _ = texts()
    mask = torch.ones_like(ids)
    mask[1] = 0
    out = model.train()(ids, mask, labels=torch.tensor([0, 1, 1]))
    out.loss.backward()
    assert out.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_regression_and_many_labels() -> None:
    ids, _ = texts()
    one = build(num_labels=1)
    loss = one(ids, labels=torch.tensor([0.5, 1.0, 2.0])).loss
    torch.testing.assert_close(loss, (one(ids).logits[:, 0] - torch.tensor([0.5, 1.0, 2.0])).square().mean())
    assert one.config.problem_type == "regression"
    many = build(num_labels=3, problem_type="multi_label_classification")
    assert many(ids, labels=torch.eye(3)).loss.isfinite()


def test_too_long_a_text_says_so() -> None:
    model, ids = build(), torch.zeros(2, 16, dtype=torch.long)
    with pytest.raises(UserError, match=r"16 tokens long.*positions for 14"):
        model(ids)
    mask = torch.ones_like(ids)
    mask[:, :2] = 0
    assert model(ids, mask).logits.shape == (2, 2)
    with pytest.raises(ValueError, match=r"attention_mask is \[2, 4\], expected \[2, 16\]"):
        model(ids, mask[:, :4])


def test_firing_layers_are_one_per_linear_and_one_behind_query_key_value() -> None:
    layer = build().bert.encoder.layer[0]
    assert [name for name, module in layer.named_modules() if isinstance(module, SpikingLayer)] == [
        *("attention.neuron", "attention.self.qkv", "attention.output.neuron", "intermediate.neuron", "output.neuron")
    ]


@pytest.mark.parametrize("coding", ["individual", "repeat"])
def test_a_fresh_model_fires_everywhere(coding: str) -> None:
    """Drawn as BERT is, no neuron after a Linear would fire, and nothing after it would learn."""
    torch.manual_seed(0)
    config = SNNBertConfig(vocab_size=500, hidden_size=64, num_attention_heads=2, coding=coding)
    model = SNNBertForSequenceClassification(config).eval()
    monitor = Monitor(model)
    with torch.no_grad(), monitor.recording():
        model(torch.randint(0, 500, (8, 24)))
    rates = {name: value for name, value in monitor.figures().items() if name.startswith("firing_rate.bert")}
    assert len(rates) == 10
    assert all(0.05 < rate < 0.6 for rate in rates.values()), rates


def test_the_initialisation_is_as_the_config_says() -> None:
    sizes = {"vocab_size": 500, "hidden_size": 64}
    linear = "bert.encoder.layer.0.intermediate.dense.weight"
    for given, inside, table in ((None, 1 / (0.15 * 64) ** 0.5, 0.02), (0.3, 0.3, 0.3)):
        state = SNNBertForSequenceClassification(SNNBertConfig(**sizes, initializer_range=given)).state_dict()
        assert state[linear].std().item() == pytest.approx(inside, rel=0.05)
        assert state["bert.embeddings.word_embeddings.weight"].std().item() == pytest.approx(table, rel=0.05)
    state = SNNBertForSequenceClassification(SNNBertConfig(**sizes, twin=True)).state_dict()
    assert state[linear].std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("head", [SNNBertForMaskedLM, SNNBertForPreTraining])
def test_sparse_prediction_has_the_same_loss_and_gradients(head: Any) -> None:
    found = []
    for sparse in (False, True):
        model = build(model=head, sparse_prediction=sparse, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model.train()
        ids, segments = texts()
        labels = ids.masked_fill(torch.rand(3, 11, generator=torch.Generator().manual_seed(2)) < 0.7, -100)
        out = model(ids, token_type_ids=segments, labels=labels)
        out.loss.backward()
        logits = next(value for name, value in out.items() if name.endswith("logits"))
        scored = logits if sparse else logits[labels != -100]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((out.loss, scored, gradients))
        assert model.eval()(ids, labels=labels).to_tuple()[1].shape == (3, 11, 23)
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_outputs_are_tuples_where_the_call_or_the_config_says_so(head: Any) -> None:
    model, (ids, segments) = build(model=head).eval(), texts()
    right = model(ids, token_type_ids=segments)
    by_call = model(ids, token_type_ids=segments, return_dict=False)
    model.config.return_dict = False
    for output in (by_call, model(ids, token_type_ids=segments)):
        assert isinstance(output, tuple)
        torch.testing.assert_close(output, right.to_tuple(), rtol=0, atol=0)
    assert model(ids, token_type_ids=segments, return_dict=True).keys() == right.keys()
