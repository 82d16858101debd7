"""bert_ngram: BERT's embedding with a convolution over neighbours, and matches in a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.embeddings.bert_ngram import BertNgram
from sj_lang_language.models.snn_bert import SNNBertForSequenceClassification
from tiny_bert import TINY, build, texts
from transformers import BertConfig, BertForSequenceClassification


def embedding(**options: Any) -> BertNgram:
    torch.manual_seed(0)
    return BertNgram(vocab_size=11, dim=6, max_length=9, **options)


def test_it_is_what_it_says() -> None:
    made = embedding(n=5)
    ids, segments = torch.randint(0, 11, (7, 2)), torch.randint(0, 2, (7, 2))
    positions = torch.arange(7)[:, None].expand(7, 2)
    found = made(ids, positions, segments)
    x = made.word_embeddings(ids) + made.position_embeddings(positions) + made.token_type_embeddings(segments)
    for t in range(7):
        near = made.convolution.bias + sum(
            x[t + k - 2] @ made.convolution.weight[:, :, k].T for k in range(5) if 0 <= t + k - 2 < 7
        )
        torch.testing.assert_close(found[t], made.LayerNorm(x[t] + near))


def test_a_match_is_a_token_of_both_texts() -> None:
    made = embedding(match=True)
    made.word_embeddings.weight.data.zero_()
    for table in (made.position_embeddings, made.token_type_embeddings, made.convolution):
        table.weight.data.zero_()
    seen: list[torch.Tensor] = []
    made.LayerNorm.register_forward_pre_hook(lambda _, given: seen.append(given[0] - made.convolution.bias))
    ids = torch.tensor([[1, 2, 3, 2, 4, 3, 3, 1], [1, 2, 3, 4, 5, 6, 6, 1]]).T
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]).T
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 0]]).bool().T
    made(ids, torch.zeros_like(ids), segments, mask)
    made(ids, torch.zeros_like(ids), None, None)
    found, alone = seen
    expected = torch.tensor([[0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0]]).T
    torch.testing.assert_close(found[:7], made.match_embeddings.weight[expected])
    assert not found[7].any(), "padding is no token"
    torch.testing.assert_close(alone, made.match_embeddings.weight[torch.zeros_like(ids)])


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("match", [False, True])
def test_padding_is_removal(match: bool, twin: bool) -> None:
    model = build(embedding={"type": "bert_ngram", "n": 5, "match": match}, pooling="mean", twin=twin)
    ids, segments = texts()
    mask = torch.ones_like(ids)
    mask[0, 6:], mask[1, :2] = 0, 0
    whole = model(ids, mask, segments).logits
    for row, valid in enumerate(mask.bool()):
        alone = model(ids[row, valid][None], None, segments[row, valid][None]).logits[0]
        torch.testing.assert_close(whole[row], alone, rtol=1e-4, atol=1e-5)


def test_word_dropout_takes_rows_away_in_training_only() -> None:
    made = embedding(word_dropout=0.3, position_std=0.0)
    torch.nn.init.ones_(made.word_embeddings.weight)
    torch.nn.init.zeros_(made.position_embeddings.weight)
    torch.nn.init.zeros_(made.token_type_embeddings.weight)
    torch.nn.init.zeros_(made.convolution.weight)
    seen: list[torch.Tensor] = []
    made.LayerNorm.register_forward_pre_hook(lambda _, given: seen.append(given[0] - made.convolution.bias))
    ids, positions = torch.randint(0, 11, (9, 2000)), torch.arange(9)[:, None].expand(9, 2000)
    made(ids, positions)
    made.eval()(ids, positions)
    trained, evaluated = seen
    kept = trained.mean(-1)
    assert set(kept.round(decimals=3).unique().tolist()) == {0.0, 1.0}, "a row is taken away as a whole"
    assert kept.mean().item() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(evaluated, torch.ones_like(evaluated))


def test_tables_are_drawn_as_asked() -> None:
    model = build(embedding={"type": "bert_ngram", "std": 2.0, "position_std": 0.0}, vocab_size=2000)
    tables = SNNBertForSequenceClassification(model.config).bert.embeddings
    assert tables.word_embeddings.weight.std().item() == pytest.approx(2.0, rel=0.05)
    assert not tables.position_embeddings.weight.any()
    assert not tables.token_type_embeddings.weight.any()
    assert tables.match_embeddings is None


def test_from_an_ann_bert_only_the_convolution_and_the_neurons_are_new(tmp_path: Path) -> None:
    BertForSequenceClassification(BertConfig(**TINY)).save_pretrained(tmp_path)
    config = build(embedding="bert_ngram").config
    model, report = SNNBertForSequenceClassification.from_pretrained(tmp_path, config=config, output_loading_info=True)
    new = {name for name in report["missing_keys"] if ".node." not in name}
    assert new == {"bert.embeddings.convolution.weight", "bert.embeddings.convolution.bias"}
    assert all(p.isfinite().all() for p in model.parameters())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="n is 4, expected an odd number"):
        embedding(n=4)
    with pytest.raises(ValueError, match="word_dropout is 1"):
        embedding(word_dropout=1.0)
