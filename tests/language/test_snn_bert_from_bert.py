"""SNN-BERT with the weights of an ANN BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.models.snn_bert import (
    SNNBertConfig,
    SNNBertForMaskedLM,
    SNNBertForPreTraining,
    SNNBertForSequenceClassification,
)
from tiny_bert import KINDS, SHARP, TINY, build, dirty_memory
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sj_lang.errors import UserError
from sj_lang.run import init_from


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("head", [SNNBertForPreTraining, SNNBertForSequenceClassification], ids=lambda h: h.__name__)
def test_from_an_ann_bert_everything_finds_its_place_and_the_rest_is_fresh(
    kind: str, head: Any, tmp_path: Path
) -> None:
    bert = BertForPreTraining(BertConfig(**TINY))
    bert.save_pretrained(tmp_path)
    stored = bert.state_dict()
    dirty_memory()
    torch.manual_seed(0)
    config = SNNBertConfig(**{**TINY, **KINDS[kind]})
    model, report = head.from_pretrained(tmp_path, config=config, output_loading_info=True)
    torch.manual_seed(0)
    fresh = head(config).state_dict()
    for name, value in model.state_dict().items():
        if name in stored:
            assert torch.equal(value, stored[name]), name
            continue
        assert name in report["missing_keys"], name
        assert value.isfinite().all(), name
        assert (".node." in name) or "running" in name or "classifier" in name, name
        if fresh[name].unique().numel() == 1:  # not drawn at random
            assert torch.equal(value, fresh[name]), name
        elif "decay" in name:  # shuffled
            assert torch.equal(value.sort().values, fresh[name].sort().values), name
        else:
            assert 0 < value.abs().max() < fresh[name].abs().max() * 3, name
    if head is SNNBertForPreTraining:
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert not report["unexpected_keys"]
    else:
        assert all(name.startswith("cls.") for name in report["unexpected_keys"])


def test_init_from_keeps_what_a_bert_has_more_of_and_makes_heads_new(tmp_path: Path) -> None:
    bert = BertForPreTraining(BertConfig(**{**TINY, "max_position_embeddings": 40}))
    bert.save_pretrained(tmp_path / "bert")
    notes: list[str] = []
    config = SNNBertConfig(**TINY, num_labels=3)
    model = init_from.from_checkpoint(
        AutoModelForSequenceClassification, config, str(tmp_path / "bert"), notes, fixed={"hidden_size": 16}
    )
    assert model.config.max_position_embeddings == 40
    assert model(torch.zeros(1, 40, dtype=torch.long)).logits.shape == (1, 3)
    assert "new: bert.encoder.layer.*.attention.neuron.node.* (12)" in notes[0]
    assert "classifier.* (2); without a place here: cls.predictions" in notes[0]
    model.save_pretrained(tmp_path / "snn")
    again = init_from.from_checkpoint(
        AutoModelForSequenceClassification, SNNBertConfig(**TINY), str(tmp_path / "snn"), notes, fixed={}
    )
    assert again.classifier.weight.shape == (2, 16)
    assert notes[1].endswith("new: classifier.* (2)")
    for name, value in again.bert.state_dict().items():
        assert torch.equal(value, model.bert.state_dict()[name]), name


def test_init_from_refuses_a_bert_of_another_shape(tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**TINY)).save_pretrained(tmp_path)

    def take(**sizes: int) -> None:
        config = SNNBertConfig(**{**TINY, **sizes})
        init_from.from_checkpoint(AutoModelForMaskedLM, config, str(tmp_path), [], fixed=sizes)

    with pytest.raises(
        UserError, match=r"(?s)of other shapes:.*intermediate.dense.bias: \[24\] in the checkpoint, \[30\] here"
    ):
        take(intermediate_size=30)
    with pytest.raises(UserError, match=r"num_attention_heads: the checkpoint .* has 2, the model 4"):
        take(num_attention_heads=4)
    for layers in (1, 3):
        with pytest.raises(UserError, match=rf"num_hidden_layers: the checkpoint .* has 2, the model {layers}"):
            take(num_hidden_layers=layers)
    with pytest.raises(UserError, match=r"position_embeddings.weight: \[14, 16\] in the checkpoint, \[10, 16\] here"):
        take(max_position_embeddings=10)


def test_init_from_keeps_the_rows_that_pad_a_table_beyond_its_tokenizer(tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**TINY)).save_pretrained(tmp_path)

    def take(tokens: int) -> Any:
        config = SNNBertConfig(**{**TINY, "vocab_size": tokens})
        return init_from.from_checkpoint(AutoModelForMaskedLM, config, str(tmp_path), [], fixed={})

    with pytest.raises(UserError, match=r"word_embeddings.weight: \[23, 16\] in the checkpoint, \[20, 16\] here"):
        take(20)
    (tmp_path / "vocab.txt").write_text("".join(f"token{n}\n" for n in range(20)))
    model = take(20)
    assert model.config.vocab_size == 23
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 23)
    for tokens in (19, 24):
        with pytest.raises(UserError, match=rf"\[23, 16\] in the checkpoint, \[{tokens}, 16\] here"):
            take(tokens)


def test_init_from_a_file_that_was_cut_off(tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**TINY)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model\.init_from: no checkpoint with safetensors in .*incomplete"):
        init_from.from_checkpoint(AutoModelForMaskedLM, SNNBertConfig(**TINY), str(tmp_path), [], fixed={})


def test_the_config_of_a_bert_is_told_as_such(tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config of a 'bert'; to start .* config=SNNBertConfig\(...\) of the same"):
        SNNBertForMaskedLM.from_pretrained(tmp_path)


def test_init_from_refuses_another_kind_of_model(tmp_path: Path) -> None:
    RobertaForMaskedLM(RobertaConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint of 'roberta', this model takes those of 'sj-snn-bert' and 'bert'"):
        init_from.from_checkpoint(AutoModelForMaskedLM, SNNBertConfig(**TINY), str(tmp_path), [], fixed={})


def test_init_from_says_what_a_checkpoint_was_trained_with(tmp_path: Path) -> None:
    notes: list[str] = []

    def take(**options: Any) -> str:
        init_from.from_checkpoint(
            AutoModelForMaskedLM, SNNBertConfig(**TINY, **options), str(tmp_path), notes, fixed=options
        )
        return notes[-1]

    BertForPreTraining(BertConfig(**TINY, hidden_act="relu")).save_pretrained(tmp_path)
    assert take().endswith("another hidden_act (relu there, gelu here), layer_norm_eps (1e-12 there, 1e-05 here)")
    build(model=SNNBertForMaskedLM, residual="spikes").save_pretrained(tmp_path)
    told = take(attention="ssa", neuron={"type": "bpsn", "v_threshold": 0.25}, gelu=False, pooling="mean")
    for other in (
        "attention (softmax there, ssa here)",
        "neuron.v_threshold (1.0 there, 0.25 here)",
        "residual (spikes there, float here)",
        "gelu (True there, False here)",
        "pooling (cls there, mean here)",
    ):
        assert other in told
    assert "trained with" not in take(attention=SHARP, residual="spikes")
