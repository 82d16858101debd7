"""SpikeDecoder: one code path for training and generation, padding that changes nothing,
spikes, the ANN twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_language.layers import SpikingLayer
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang.errors import UserError

Build = Callable[..., SpikeDecoderForCausalLM]


@torch.no_grad()
def logits(model: SpikeDecoderForCausalLM, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    return model(ids, **options).logits


def test_token_by_token_equals_the_whole(build: Build, kind: str, ids: torch.Tensor) -> None:
    model, cache, parts = build(kind), None, []
    for token in ids.split(1, dim=1):
        out = model(token, cache=cache, use_cache=True)
        cache = out.cache
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), logits(model, ids), rtol=1e-5, atol=1e-5)


def test_in_pieces_equals_the_whole(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    first = model(ids[:, :5], use_cache=True)
    second = model(ids[:, 5:], cache=first.cache)
    whole = logits(model, ids)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, rtol=1e-5, atol=1e-5)
    assert second.cache.get_seq_length() == ids.shape[1]


def test_the_state_of_spiking_generation_has_constant_size(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    sizes = [model(ids[:, :length], use_cache=True).cache.numel for length in (2, 5, 11)]
    assert (sizes[0] == sizes[1] == sizes[2]) is (kind not in ("twin", "softmax", "recalling_repeat"))


def test_the_model_is_causal(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 23
    before, after = logits(model, ids), logits(model, changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] != after[:, 7:]).any()


@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_no_logit_and_no_gradient(build: Build, kind: str, ids: torch.Tensor, side: str) -> None:
    model = build(kind).double()  # the order of summation differs, and rounding in float32 with it
    text = ids[:1, :6]
    junk = torch.full((1, 3), 5)
    pieces = {
        "left": ([junk, text], [0, 0, 0, 1, 1, 1, 1, 1, 1]),
        "right": ([text, junk], [1, 1, 1, 1, 1, 1, 0, 0, 0]),
        "between": ([text[:, :2], junk, text[:, 2:]], [1, 1, 0, 0, 0, 1, 1, 1, 1]),
    }[side]
    padded, mask = torch.cat(pieces[0], 1), torch.tensor([pieces[1]])
    batch = torch.cat([padded, ids[1:, :9]]), torch.cat([mask, torch.ones(2, 9, dtype=torch.long)])
    found = logits(model, batch[0], attention_mask=batch[1])
    torch.testing.assert_close(found[0, mask[0].bool()], logits(model, text)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:], logits(model, ids[1:, :9]), rtol=1e-5, atol=1e-5)

    def gradients(**inputs: Any) -> list[torch.Tensor]:
        model.zero_grad()
        model(**inputs).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    labels = padded.masked_fill(mask == 0, -100)
    # transformers shifts by one place, so what stands before a hole has no next token
    if side == "between":
        labels = labels.masked_fill(torch.arange(9) == 5, -100)
        plain = text.masked_fill(torch.arange(6) == 2, -100)
    else:
        plain = text
    alone = gradients(input_ids=text, labels=plain)
    for mine, right in zip(gradients(input_ids=padded, attention_mask=mask, labels=labels), alone, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-8)


def spikes_of(model: SpikeDecoderForCausalLM, ids: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, SpikingLayer):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    logits(model, ids)
    return seen


def test_spikes_between_layers_are_small_integers(build: Build, ids: torch.Tensor) -> None:
    for kind, levels in (("integer", 4), ("binary", 1), ("repeat", 1), ("calm", 1), ("recalling", 1)):
        seen = spikes_of(build(kind), ids)
        values = torch.cat([spikes.flatten() for spikes in seen]).unique()
        assert len(seen) == 2 * 5 + 1
        assert set(values.tolist()) <= set(range(levels + 1))
        assert levels in values


def test_the_embedding_is_binary_and_every_parameter_learns(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind).train()
    embedded = model.embedding(ids.T, torch.arange(11)[:, None])
    assert (set(embedded.unique().tolist()) == {0.0, 1.0}) is (kind != "twin")
    model(ids, labels=ids).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_twin_has_the_same_parameters_outside_the_neurons(build: Build) -> None:
    def shapes(kind: str) -> dict[str, torch.Size]:
        return {name: p.shape for name, p in build(kind).named_parameters() if ".node." not in name}

    twin = shapes("twin")
    assert twin == {name: p.shape for name, p in build("twin").named_parameters()}
    assert twin == shapes("integer") == shapes("repeat")


def test_a_bf16_model_and_autocast_run(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids, labels=ids, use_cache=True)
    assert out.loss.isfinite()
    out = model.bfloat16()(ids, labels=ids, use_cache=True)
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.isfinite()


def test_gradient_checkpointing_gives_the_same_gradients(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind).train()
    model(ids, labels=ids).loss.backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model(ids, labels=ids).loss.backward()
    for p, right in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, right)


def test_the_loss_is_a_mean_over_tokens_or_what_the_trainer_divides_by(build: Build, ids: torch.Tensor) -> None:
    model = build()
    right = torch.nn.functional.cross_entropy(logits(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(model(ids, labels=ids).loss, right)
    torch.testing.assert_close(model(ids, labels=ids, num_items_in_batch=60).loss, right * 30 / 60)
    targets = ids.roll(-1, 1)
    right = torch.nn.functional.cross_entropy(logits(model, ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(ids, labels=ids, shift_labels=targets).loss, right)


def test_logits_to_keep(build: Build, ids: torch.Tensor) -> None:
    model = build()
    torch.testing.assert_close(logits(model, ids, logits_to_keep=2), logits(model, ids)[:, -2:])
    with pytest.raises(ValueError, match="logits_to_keep"):
        model(ids, labels=ids, logits_to_keep=2)


def test_too_long_a_text_says_so(build: Build, ids: torch.Tensor) -> None:
    model, longer = build(max_position_embeddings=10), torch.zeros(3, 11, dtype=torch.long)
    with pytest.raises(UserError, match=r"11 tokens long.*positions for 10"):
        model(longer)
    cache = model(longer[:, :8], use_cache=True).cache
    with pytest.raises(UserError, match=r"11 tokens"):
        model(longer[:, :3], cache=cache)
    mask = torch.ones_like(longer)
    mask[:, 0] = 0
    assert model(longer, attention_mask=mask).logits.shape == (3, 11, 23)


def test_without_positions_texts_have_any_length(build: Build) -> None:
    model = build("calm", max_position_embeddings=10)
    assert model(torch.zeros(1, 50, dtype=torch.long)).logits.shape == (1, 50, 23)


def test_a_mask_or_a_cache_that_does_not_fit_says_so(build: Build, ids: torch.Tensor) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"attention_mask is \[3, 4\], expected \[3, 11\]"):
        model(ids, attention_mask=torch.ones(3, 4))
    cache = model(ids, use_cache=True).cache
    with pytest.raises(ValueError, match="holds 3 texts, the inputs 2"):
        model(ids[:2], cache=cache)


def test_hidden_states(build: Build, kind: str, ids: torch.Tensor) -> None:
    model = build(kind)
    assert model(ids).hidden_states is None
    found = model(ids, output_hidden_states=True).hidden_states
    assert [state.shape for state in found] == [(*ids.shape, model.config.hidden_size)] * (len(model.layers) + 1)
    model.config.output_hidden_states = True
    torch.testing.assert_close(model(ids).hidden_states, found, rtol=0, atol=0)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=found[0])


@pytest.mark.parametrize("neuron", ["bpsn", {"type": "bpsn", "variant": "A"}])
def test_a_neuron_that_sees_what_follows_is_refused_from_python_too(neuron: Any) -> None:
    config = SpikeDecoderConfig(vocab_size=9, hidden_size=8, neuron=neuron)
    with pytest.raises(UserError, match=r"model\.neuron: .* cannot be used here"):
        SpikeDecoderForCausalLM(config)
