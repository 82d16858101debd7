"""generate(): cache, batches, left padding, beams, sampling, chunked prefill, continuation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderForCausalLM
from transformers import GenerationConfig

Build = Callable[..., SpikeDecoderForCausalLM]


def generate(model: SpikeDecoderForCausalLM, ids: Any, mask: Any = None, cache: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    config = GenerationConfig(**{"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **options})
    mask = torch.ones_like(ids) if mask is None else mask
    carried = {} if cache is None else {"cache": cache}
    return model.generate(ids, attention_mask=mask, generation_config=config, **carried)


def test_greedy_with_cache_equals_recomputation(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    expected = ids
    for _ in range(9):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generate(model, ids), expected)
    assert torch.equal(generate(model, ids, use_cache=False), expected)


def test_with_a_cache_each_token_is_computed_once(build: Build, ids: torch.Tensor) -> None:
    model, lengths = build(), []
    model.embedding.register_forward_hook(lambda _module, inputs, _output: lengths.append(len(inputs[0])))
    generate(model, ids)
    assert lengths == [11] + [1] * 8


@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_chunked_prefill(build: Build, kind: str, ids: torch.Tensor, chunk: int) -> None:
    model = build(kind)
    assert torch.equal(generate(model, ids, prefill_chunk_size=chunk), generate(model, ids))


def test_a_batch_of_different_prompts_equals_each_alone(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, :9] = 0, 0
    together = generate(model, ids, mask=mask)
    for row, start in enumerate((4, 9, 0)):
        alone = generate(model, ids[row : row + 1, start:])
        assert torch.equal(together[row, 11:], alone[0, 11 - start :])


def test_beams_with_and_without_cache(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    beams = {"num_beams": 4, "num_return_sequences": 2}
    found = generate(model, ids, **beams)
    assert found.shape == (6, 20)
    assert torch.equal(found, generate(model, ids, use_cache=False, **beams))


def test_sampling_follows_the_seed_and_does_not_depend_on_the_cache(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    drawn = {"do_sample": True, "top_k": 0, "num_return_sequences": 2}
    found = generate(model, ids, **drawn)
    assert found.shape == (6, 20)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, generate(model, ids, **drawn))
    assert torch.equal(found, generate(model, ids, use_cache=False, **drawn))


def test_continue_from_a_returned_cache(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    whole = generate(model, ids, max_new_tokens=12)
    first = generate(model, ids, max_new_tokens=5, return_dict_in_generate=True)
    assert first.cache.get_seq_length() == 15
    rest = generate(model, first.sequences, cache=first.cache, max_new_tokens=7)
    assert torch.equal(rest, whole)


def test_what_cannot_work_is_refused(build: Build, ids: torch.Tensor) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"cache_implementation='static'.*leave it out"):
        generate(model, ids, cache_implementation="static")
    with pytest.raises(ValueError, match="stateful"):
        generate(model, ids[:1], prompt_lookup_num_tokens=2)
