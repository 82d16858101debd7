"""SNN-BERT in the hands of transformers: checkpoints, Trainer, pipeline, compile,
checkpointing, bf16.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from sj_lang_language.models.snn_bert import (
    SNNBertConfig,
    SNNBertForMaskedLM,
    SNNBertForPreTraining,
    SNNBertForSequenceClassification,
    SNNBertForTokenClassification,
    SNNBertModel,
)
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from tiny_bert import KINDS, TINY, build, dirty_memory, texts
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from sj_lang import plugins
from sj_lang.build import check_neurons
from sj_lang.errors import UserError

AUTO = {
    AutoModel: SNNBertModel,
    AutoModelForMaskedLM: SNNBertForMaskedLM,
    AutoModelForPreTraining: SNNBertForPreTraining,
    AutoModelForSequenceClassification: SNNBertForSequenceClassification,
    AutoModelForTokenClassification: SNNBertForTokenClassification,
}


STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("auto", AUTO, ids=lambda auto: auto.__name__)
def test_a_checkpoint_rebuilds_itself(auto: Any, tmp_path: Path) -> None:
    model = build(model=AUTO[auto])
    model.save_pretrained(tmp_path)
    dirty_memory()
    again, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is AUTO[auto]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert {**again.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    with torch.no_grad():
        for mine, right in zip(again.eval()(texts()[0]).to_tuple(), model(texts()[0]).to_tuple(), strict=True):
            assert torch.equal(mine, right)


def test_every_kind_is_stored_whole(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path)
    dirty_memory()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(texts()[0]).logits, model(texts()[0]).logits)


def test_the_config_holds_every_option_of_the_components() -> None:
    config = SNNBertConfig()
    assert config.neuron["variant"] == "G"
    assert config.norm == {"type": "layer", "eps": config.layer_norm_eps}
    assert config.attention["gain"] == SNNBertConfig(attention="softmax").attention["gain"]
    assert config.intermediate_size == 4 * config.hidden_size
    assert SNNBertConfig(coding="repeat").neuron["type"] == "lif"


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_runs(kind: str, dtype: torch.dtype) -> None:
    model, (ids, segments) = build(kind), texts()
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments, "labels": torch.tensor([0, 1, 1])}
    model.train()
    with torch.autocast("cpu", dtype=dtype):
        out = model(**inputs)
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    out = model.to(dtype)(**inputs)
    out.loss.backward()
    assert out.logits.dtype == dtype
    assert out.loss.isfinite()


def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    model, (ids, _) = build(kind).train(), texts()
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    labels = torch.tensor([0, 1, 1])

    def gradients() -> list[torch.Tensor | None]:
        model.zero_grad()
        torch.manual_seed(0)
        model(ids, mask, labels=labels).loss.backward()
        return [p.grad for p in model.parameters()]

    wanted = [None if grad is None else grad.clone() for grad in gradients()]
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    for mine, right in zip(gradients(), wanted, strict=True):
        torch.testing.assert_close(mine, right)


SLOW = pytest.mark.slow  # the rest of the graph is the same, and conformance compiles each neuron


@pytest.mark.skipif(torch.__version__ < (2, 7), reason="before torch 2.7 transformers' own outputs break the graph")
@pytest.mark.parametrize("kind", ["bpsn", pytest.param("dsn", marks=SLOW), pytest.param("repeat", marks=SLOW), "twin"])
def test_the_whole_graph_compiles(kind: str) -> None:
    """Of one block, as the others are traced in the same way."""
    model, (ids, segments) = build(kind, num_hidden_layers=1), texts()
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    mask[1, :3] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments, "labels": torch.tensor([0, 1, 1])}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found, right = compiled(**inputs), model(**inputs)
    torch.testing.assert_close(found.logits, right.logits)
    found.loss.backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    right.loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(mine[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "very"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def test_trainer_and_pipeline_from_plain_code(tmp_path: Path) -> None:
    """As a user would write it, with nothing of ours but the model."""
    reader = tokenizer()
    pairs = [("a good film", 1), ("a very good film", 1), ("a bad film", 0), ("a very bad film", 0)] * 8
    data = [{**reader(text), "labels": label} for text, label in pairs]
    config = SNNBertConfig(
        **{**TINY, "vocab_size": len(reader), "pooling": "mean"},
        id2label={0: "neg", 1: "pos"},
        label2id={"neg": 0, "pos": 1},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=8,
        num_train_epochs=16,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:4], processing_class=reader)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.1
    trainer.save_model(str(tmp_path / "model"))
    read = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")
    found = read(["a good film", "very bad"], padding=True, batch_size=2)
    assert [one["label"] for one in found] == ["pos", "neg"]


def test_one_import_makes_the_models_known(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "bert")
    SpikeDecoderForCausalLM(SpikeDecoderConfig(vocab_size=9, hidden_size=16)).save_pretrained(tmp_path / "decoder")
    code = """
import sj_lang_language.models
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
print(type(AutoModelForSequenceClassification.from_pretrained("bert")).__name__)
print(type(AutoModelForCausalLM.from_pretrained("decoder")).__name__)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["SNNBertForSequenceClassification", "SpikeDecoderForCausalLM"]


def test_other_embeddings_serve_too_and_are_tied(tmp_path: Path) -> None:
    model = build(model=SNNBertForMaskedLM, embedding="learned_sum")
    model.save_pretrained(tmp_path)
    again, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.token.weight
    with torch.no_grad():
        assert torch.equal(again.eval()(texts()[0]).logits, model(texts()[0]).logits)
    free = build(model=SNNBertForMaskedLM, tie_word_embeddings=False)
    assert free.cls.predictions.decoder.weight is not free.bert.embeddings.token.weight


@pytest.mark.parametrize("tokens", [31, 17])
@pytest.mark.parametrize("head", [SNNBertForMaskedLM, SNNBertForPreTraining], ids=lambda head: head.__name__)
def test_another_number_of_tokens(head: Any, tokens: int, tmp_path: Path) -> None:
    model = build("twin", head, tie_word_embeddings=head is SNNBertForMaskedLM)
    bert = {SNNBertForMaskedLM: BertForMaskedLM, SNNBertForPreTraining: BertForPreTraining}[head](BertConfig(**TINY))
    bert.load_state_dict(model.state_dict(), strict=False)
    ids = texts()[0] % 17
    with torch.no_grad():
        before = model(ids)[0]
        for one in (model, bert):
            one.resize_token_embeddings(tokens)
        after = model(ids, labels=ids).to_tuple()[1]
    kept = min(tokens, 23)
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert after.shape[-1] == model.config.vocab_size == tokens
    if model.config.tie_word_embeddings:
        torch.testing.assert_close(model.cls.predictions.bias, bert.cls.predictions.bias)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(head.from_pretrained(tmp_path).eval()(ids)[0], after)


def test_masked_lm_divides_by_what_the_trainer_says() -> None:
    model, (ids, _) = build(model=SNNBertForMaskedLM), texts()
    labels = ids.masked_fill(torch.arange(11) % 3 != 0, -100)
    right = torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(model(ids, labels=labels).loss, right)
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=24).loss, right * 12 / 24)


@pytest.mark.parametrize("sparse", [False, True])
def test_pre_training_in_micro_batches(sparse: bool) -> None:
    """Exact for masked tokens; pairs count by their micro-batch's share of these."""
    model, (ids, _) = build(model=SNNBertForPreTraining, sparse_prediction=sparse, **STILL), texts()
    # 6, 4 and 3 scored tokens
    labels = ids.masked_fill(torch.arange(11) % torch.tensor([[2], [3], [5]]) != 0, -100)
    model.train()  # sparse predictions are made in training alone
    parts = [slice(0, 1), slice(1, 3)]
    masked = sum(model(ids[at], labels=labels[at], num_items_in_batch=13).loss for at in parts)
    torch.testing.assert_close(masked, model(ids, labels=labels).loss)
    follows = torch.tensor([0, 1, 1])
    both = {"labels": labels, "next_sentence_label": follows}
    found = sum(model(ids[at], **{k: v[at] for k, v in both.items()}, num_items_in_batch=13).loss for at in parts)
    pairs = [model(ids[at], next_sentence_label=follows[at]).loss for at in parts]
    torch.testing.assert_close(found, masked + pairs[0] * 6 / 13 + pairs[1] * 7 / 13)
    torch.testing.assert_close(model(ids, **both, num_items_in_batch=13).loss, model(ids, **both).loss)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"no option 'hiden_size'.*hidden_size"):
        SNNBertConfig(hiden_size=8)
    with pytest.raises(UserError, match="num_attention_heads 3 must divide hidden_size 16"):
        SNNBertConfig(hidden_size=16, num_attention_heads=3)
    with pytest.raises(UserError, match="timesteps is 0"):
        SNNBertConfig(timesteps=0)
    for size in ("vocab_size", "max_position_embeddings", "type_vocab_size"):
        with pytest.raises(UserError, match=f"{size} is 0, expected 1 or more"):
            SNNBertConfig(**{size: 0})
    with pytest.raises(UserError, match=r"problem_type 'regresion'; did you mean 'regression'"):
        SNNBertConfig(problem_type="regresion")
    assert SNNBertConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0, layer_norm_eps=1, initializer_range=1)
    with pytest.raises(StrictDataclassError, match="pooling"):
        SNNBertConfig(pooling="first")


def test_what_the_neuron_must_be_able_to_do() -> None:
    assert set(SNNBertConfig().requires(pads=True)["neuron"]) == {"any_length", "takes_mask"}
    assert set(SNNBertConfig().requires(pads=False)["neuron"]) == {"any_length"}
    assert SNNBertConfig(coding="repeat").requires(pads=True) == SNNBertConfig(twin=True).requires(pads=True) == {}
    if not plugins.get("neuron", "psn").missing:
        with pytest.raises(UserError, match=r"psn.*works on one fixed length"):
            check_neurons(SNNBertConfig(neuron={"type": "psn", "T": 4}), pads=True)


def test_a_stored_config_is_checked(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).neuron["type"] == "bpsn"
