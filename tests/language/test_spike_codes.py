"""Spike embeddings: every pair of a token and a position code, all codes distinct."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from sj_lang_language.embeddings.spike_codes import SpikeCodes, binary, digits, one_hot, static
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang.errors import UserError

TOKENS, POSITIONS = ("one_hot", "binary", "learned", "float"), ("one_hot", "binary", "static", "learned", "none")
PAIRS = list(product(TOKENS, POSITIONS, (False, True)))


@pytest.mark.parametrize(("token", "position", "summed"), PAIRS)
def test_every_pair_builds_learns_and_is_distinct(token: str, position: str, summed: bool) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"token": token, "position": position, "summed": summed}
    embedding = SpikeCodes(vocab_size=11, dim=32, max_length=9, **options)
    ids, positions = torch.arange(11)[:, None].expand(11, 9), torch.arange(9)[None].expand(11, 9)
    out = embedding(ids, positions)
    assert out.shape == (11, 9, 32)
    if token != "float":
        assert set(out.unique().tolist()) <= {0.0, 1.0, 2.0} if summed else {0.0, 1.0}
    if position != "none" and not summed:
        assert len(out.flatten(0, 1).unique(dim=0)) == 99
    parameters = list(embedding.parameters())
    if parameters:
        out.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in parameters)


@pytest.mark.parametrize("rows", [1, 2, 3, 30, 65, 256, 2048])
def test_fixed_codes_are_distinct_whatever_the_number(rows: int) -> None:
    for code in (one_hot(rows, rows), binary(rows, digits(rows)), binary(rows, 64), static(rows, 64)):
        assert len(code.unique(dim=0)) == rows
    assert digits(256) == 8


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"token": "one_hot", "position": "none"}, "token one_hot of 11 numbers needs 11 channels"),
        ({"token": "one_hot"}, "no channel of hidden_size is left for position"),
        ({"position": "one_hot"}, "no channel of hidden_size is left for token"),
        ({"token": "binary", "position": "one_hot", "summed": True}, "position one_hot of 9 numbers needs 9 channels"),
    ],
)
def test_too_few_channels_are_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        SpikeCodes(vocab_size=11, dim=8, max_length=9, **options)


@pytest.mark.parametrize("token", ["one_hot", "learned"])
def test_a_model_with_codes_is_stored_and_loaded(tmp_path: Any, token: str) -> None:
    config = SpikeDecoderConfig(
        **{"vocab_size": 11, "max_position_embeddings": 9, "hidden_size": 24, "num_hidden_layers": 1},
        embedding={"type": "spike_codes", "token": token, "position": "static"},
        neuron={"type": "dsn", "n": 1, "alpha_init": 0.3},
    )
    model, ids = SpikeDecoderForCausalLM(config).eval(), torch.arange(9)[None]
    model.save_pretrained(tmp_path)
    again = SpikeDecoderForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)
    with pytest.raises(UserError, match="takes token ids only"):
        model(inputs_embeds=torch.zeros(1, 3, 24))
