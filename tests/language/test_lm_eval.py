"""lm-evaluation-harness scores a SpikeDecoder as it scores any causal model of transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderForCausalLM
from sj_lang_language.tokenizers.characters import characters

huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval is not installed")
instance = pytest.importorskip("lm_eval.api.instance", reason="lm-eval is not installed")

TEXT = "the cat sat on the mat and the dog sat on the log. "
PAIRS = [("the cat", " sat"), ("the dog sat", " on the log"), ("a", " mat")]


@pytest.mark.parametrize("kind", ["binary", "calm", "repeat", "softmax", "twin"])
def test_likelihoods_and_texts_are_those_of_the_model(kind: str, build: Callable[..., SpikeDecoderForCausalLM]) -> None:
    tokenizer = characters(texts=[TEXT], boundary=True)
    boundary = tokenizer.bos_token_id
    model = build(kind, vocab_size=len(tokenizer), bos_token_id=boundary, eos_token_id=boundary)
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu")

    def asked(kind: str, *rows: tuple[object, ...]) -> list[Any]:
        return [instance.Instance(request_type=kind, doc={}, arguments=row, idx=n) for n, row in enumerate(rows)]

    def log_likelihood(before: list[int], after: list[int]) -> float:
        with torch.no_grad():
            scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        return sum(float(scores[len(before) + n - 1, token]) for n, token in enumerate(after))

    def ids(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    pairs = [log_likelihood(ids(context), ids(after)) for context, after in PAIRS]
    scored = harness.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [likelihood for likelihood, _ in scored] == pytest.approx(pairs, rel=1e-4)

    whole = log_likelihood([boundary], ids("the mat"))
    assert harness.loglikelihood_rolling(
        asked("loglikelihood_rolling", ("the mat",)), disable_tqdm=True
    ) == pytest.approx([whole], rel=1e-4)

    options = {"until": ["."], "max_gen_toks": 5, "do_sample": False}
    rows = [(context, options) for context, _ in PAIRS]
    written = harness.generate_until(asked("generate_until", *rows), disable_tqdm=True)
    for (context, _), text in zip(PAIRS, written, strict=True):
        alone = model.generate(torch.tensor([ids(context)]), max_new_tokens=5, do_sample=False)[0, len(context) :]
        expected = tokenizer.decode(alone.tolist(), skip_special_tokens=True).partition(".")[0]
        assert text == expected
