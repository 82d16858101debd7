"""The models are called as transformers' own: signatures, vectors in place of ids, PEFT,
Auto classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.models import snn_bert
from sj_lang_language.models.spike_decoder import SpikeDecoderForCausalLM, SpikeDecoderModel
from tiny_bert import TINY as TINY_BERT
from tiny_bert import build as build_bert
from tiny_bert import texts
from transformers import AutoModel, AutoModelForMultipleChoice, AutoModelForQuestionAnswering, BertConfig, LlamaModel
from transformers.models.bert import modeling_bert

from sj_lang.errors import UserError

Build = Callable[..., SpikeDecoderForCausalLM]
HEADS = [name.removeprefix("SNNBert") for name in snn_bert.__all__ if "For" in name]


def parameters(model: Any) -> list[str]:
    named = inspect.signature(model.forward).parameters.values()
    return [one.name for one in named if one.kind is not one.VAR_KEYWORD]


@pytest.mark.parametrize("head", ["Model", *HEADS])
def test_snn_bert_is_called_as_bert(head: str) -> None:
    its = parameters(getattr(modeling_bert, f"Bert{head}"))
    its = [
        name for name in its if name not in ("encoder_hidden_states", "encoder_attention_mask", "cache", "use_cache")
    ]
    assert parameters(getattr(snn_bert, f"SNNBert{head}"))[: len(its)] == its
    model = build_bert(model=getattr(snn_bert, f"SNNBert{head}"))
    ids, _ = texts()
    ids = ids[:, None] if head == "ForMultipleChoice" else ids
    nothing = {"position_ids": None, "output_attentions": False, "past_key_values": None, "head_mask": None}
    assert torch.equal(model(ids, **nothing)[0], model(ids)[0])
    assert torch.equal(model(ids, return_dict=False)[0], model(ids)[0])
    with pytest.raises(TypeError, match="has no output_attentions; attention keeps no weights"):
        model(ids, output_attentions=True)
    with pytest.raises(TypeError, match="has no atention_mask"):
        model(ids, atention_mask=torch.ones_like(ids))


def test_a_decoder_is_called_as_llama(build: Build, ids: torch.Tensor) -> None:
    model = build()
    # `generate` would fill it in
    its = [name for name in parameters(LlamaModel) if name != "position_ids"]
    assert parameters(SpikeDecoderModel)[: len(its)] == its
    nothing = {"position_ids": None, "output_attentions": None, "past_key_values": None}
    assert torch.equal(model(ids, **nothing).logits, model(ids).logits)
    with pytest.raises(TypeError, match="has no position_ids; positions count the tokens"):
        model(ids, position_ids=ids)
    with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
        model()


@pytest.mark.parametrize("embedding", ["bert_sum", "bert_ngram", "learned_sum"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors_stand_for_the_rows_of_ids(embedding: str, side: str) -> None:
    model = build_bert(embedding=embedding)
    ids, segments = texts()
    mask = torch.ones_like(ids)
    mask[0, slice(3) if side == "left" else slice(-3, None)] = 0
    vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
    found = model(inputs_embeds=vectors, attention_mask=mask, token_type_ids=segments).logits
    assert torch.equal(found, model(ids, mask, segments).logits)
    (gradient,) = torch.autograd.grad(found.square().sum(), vectors)
    assert gradient.any()
    assert not gradient[mask == 0].any()
    with pytest.raises(ValueError, match=r"attention_mask is .*as inputs_embeds"):
        model(inputs_embeds=vectors, attention_mask=mask[:1])


def test_matches_need_ids() -> None:
    model = build_bert(embedding={"type": "bert_ngram", "match": True})
    ids, _ = texts()
    with pytest.raises(ValueError, match="it takes no inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(ids))


def test_an_embedding_without_vectors_takes_ids_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_bert()
    monkeypatch.setattr(model.embedding, "forward", lambda ids, positions, segments, mask: ids)
    with pytest.raises(UserError, match="inputs_embeds: the embedding BertSum takes token ids only"):
        model(inputs_embeds=model.get_input_embeddings()(texts()[0]))


def test_a_decoder_continues_vectors(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    vectors = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=vectors).logits, model(ids).logits)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    written = model.generate(inputs_embeds=vectors, attention_mask=mask, **options)
    assert torch.equal(written, model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :])


def test_the_backbone_of_a_decoder(build: Build, ids: torch.Tensor, tmp_path: Path) -> None:
    whole = build()
    whole.save_pretrained(tmp_path)
    model, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is SpikeDecoderModel
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    found = model(ids)
    assert torch.equal(whole.lm_head(found.last_hidden_state), whole(ids).logits)


def test_questions_and_choices_are_berts(tmp_path: Path) -> None:
    ids, segments = texts()
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    where = {"start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([3, 5, 99])}
    cases: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
        "QuestionAnswering": (AutoModelForQuestionAnswering, where),
        "MultipleChoice": (AutoModelForMultipleChoice, {"labels": torch.tensor([2])}),
    }
    for task, (auto, labels) in cases.items():
        torch.manual_seed(0)
        bert = getattr(modeling_bert, f"BertFor{task}")(BertConfig(**TINY_BERT)).eval()
        twin = build_bert("twin", getattr(snn_bert, f"SNNBertFor{task}"), layer_norm_eps=1e-12)
        twin.load_state_dict(bert.state_dict())
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        if task == "MultipleChoice":
            batch = {name: x[None] for name, x in batch.items()}
        else:  # padding has a share in BERT's loss
            del batch["attention_mask"]
        right, found = bert(**batch, **labels), twin(**batch, **labels)
        torch.testing.assert_close(found.loss, right.loss)
        logits = "logits" if task == "MultipleChoice" else "end_logits"
        torch.testing.assert_close(found[logits], right[logits], rtol=1e-4, atol=1e-5)
        spiking = build_bert(model=type(twin))
        spiking.save_pretrained(tmp_path / task)
        again = auto.from_pretrained(tmp_path / task)
        assert torch.equal(again(**batch)[logits], spiking(**batch)[logits])
        spiking.train()(**batch, **labels).loss.backward()
        assert all(p.grad is not None for name, p in spiking.named_parameters() if "position" not in name)


def test_padding_has_no_share_in_a_question_s_loss() -> None:
    model = build_bert(model=snn_bert.SNNBertForQuestionAnswering)
    ids = texts()[0][:1]
    mask = torch.cat([torch.ones(1, 7, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)], 1)
    where = {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([3])}
    padded = model(ids, mask, **where)
    torch.testing.assert_close(padded.loss, model(ids[:, :7], **where).loss)
    assert padded.start_logits.argmax() < 7


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("task", ["SEQ_CLS", "QUESTION_ANS", "CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_lora_learns_and_is_stored_alone(build: Build, task: str, ids: torch.Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    models: dict[str, Callable[[], Any]] = {
        "SEQ_CLS": build_bert,
        "QUESTION_ANS": lambda: build_bert(model=snn_bert.SNNBertForQuestionAnswering),
        "CAUSAL_LM": build,
        "FEATURE_EXTRACTION": lambda: build_bert(model=snn_bert.SNNBertModel),
    }
    plain, same = models[task](), models[task]()
    model = peft.get_peft_model(plain, peft.LoraConfig(task_type=task, target_modules=["query", "value"]))
    torch.testing.assert_close(model(input_ids=ids)[0], same(ids)[0])
    labels = {
        "SEQ_CLS": {"labels": torch.tensor([0, 1, 1])},
        "QUESTION_ANS": {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([2, 2, 4])},
        "CAUSAL_LM": {"labels": ids},
    }.get(task, {})
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(2):  # B is 0 at first, so A learns from the second step on
        out = model(input_ids=ids, **labels)
        optimizer.zero_grad()
        (out.loss if labels else out.last_hidden_state.square().mean()).backward()
        optimizer.step()
    lora = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    assert lora
    assert all(p.grad.any() for p in lora.values())
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(models[task](), tmp_path).eval()
    torch.testing.assert_close(again(input_ids=ids)[0], model(input_ids=ids)[0])
