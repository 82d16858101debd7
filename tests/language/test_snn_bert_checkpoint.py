"""SNN-BERT in the hands of transformers: checkpoints, Trainer, pipeline, compile, checkpointing, bf16."""

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
from tiny_bert import KINDS, SHARP, TINY, build, texts
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
    RobertaConfig,
    RobertaForMaskedLM,
    Trainer,
    TrainingArguments,
    pipeline,
)

from sj_lang import plugins
from sj_lang.errors import UserError
from sj_lang.recipe.neurons import check_neurons
from sj_lang.run import init_from

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


def dirty_memory() -> None:
    """Memory that is handed out again is not zero afterwards."""
    waste = [torch.full((size,), float("nan")) for size in (16, 48, 384, 1000, 10_000) for _ in range(50)]
    del waste


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

    with pytest.raises(UserError, match=r"(?s)of another shape:.*intermediate.dense.bias: \[24\] there, \[30\] here"):
        take(intermediate_size=30)
    with pytest.raises(UserError, match=r"num_attention_heads: the checkpoint .* has 2, the model 4"):
        take(num_attention_heads=4)
    for layers in (1, 3):
        with pytest.raises(UserError, match=rf"num_hidden_layers: the checkpoint .* has 2, the model {layers}"):
            take(num_hidden_layers=layers)
    with pytest.raises(UserError, match=r"position_embeddings.weight: \[14, 16\] there, \[10, 16\] here"):
        take(max_position_embeddings=10)


def test_init_from_keeps_the_rows_that_pad_a_table_beyond_its_tokenizer(tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**TINY)).save_pretrained(tmp_path)

    def take(tokens: int) -> Any:
        config = SNNBertConfig(**{**TINY, "vocab_size": tokens})
        return init_from.from_checkpoint(AutoModelForMaskedLM, config, str(tmp_path), [], fixed={})

    with pytest.raises(UserError, match=r"word_embeddings.weight: \[23, 16\] there, \[20, 16\] here"):
        take(20)
    (tmp_path / "vocab.txt").write_text("".join(f"token{n}\n" for n in range(20)))
    model = take(20)
    assert model.config.vocab_size == 23
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 23)
    for tokens in (19, 24):
        with pytest.raises(UserError, match=rf"\[23, 16\] there, \[{tokens}, 16\] here"):
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


@pytest.mark.skipif(torch.__version__ < (2, 7), reason="before torch 2.7 transformers' own outputs break the graph")
@pytest.mark.parametrize("kind", ["bpsn", "dsn", "repeat", "twin"])
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
    labels = ids.masked_fill(torch.arange(11) % torch.tensor([[2], [3], [5]]) != 0, -100)  # 6, 4 and 3 scored tokens
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
