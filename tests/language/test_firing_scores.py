"""Attention without softmax: scores that fire, against their definition, and where they begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.attention.firing_scores import FiringScoresAttention
from sj_lang_language.layers import SpikingLayer

from sj_lang import build

GRID = {"type": "bpsn", "variant": "G", "spikes": "integer", "levels": 4, "offset": True}


def attention(**options: Any) -> FiringScoresAttention:
    torch.manual_seed(0)
    neuron = build.part("neuron", GRID)
    core = SpikingLayer(neuron=neuron, channels=8)
    handed_in = {"dim": 8, "heads": 2, "neuron": neuron, "causal": False, "core": core, "scaled": True, "bias": True}
    module = build.part("attention", {"type": "firing_scores", **options})(**handed_in)
    with torch.no_grad():
        for tensor in (module.qkv.scale, module.qkv.shift):
            tensor.uniform_(0.2, 1.5)
        module.threshold.uniform_(-0.5, 0.5)
        module.log_step.uniform_(-1, 0)
    assert isinstance(module, FiringScoresAttention)
    return module


def spikes(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def defined(module: FiringScoresAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The docstring's equations, of the values that spikes stand for, query by query."""
    assert module.values is not None
    assert module.threshold is not None
    assert module.log_step is not None
    a, b = module.values
    q, k, v = (x * a[i] + b[i] for i, x in enumerate((q, k, v)))
    out = torch.zeros_like(q)
    for batch in range(q.shape[0]):
        for head in range(q.shape[1]):
            t, g = module.threshold[head], module.log_step[head].exp()
            for i in range(q.shape[2]):
                u = (k[batch, head] @ q[batch, head, i] / q.shape[-1] ** 0.5 - t) / g
                p = u.round().clamp(0, module.levels)
                out[batch, head, i] = p @ v[batch, head] / p.sum().clamp(min=1)
    return out


@pytest.mark.parametrize("levels", [1, 4])
def test_it_is_what_its_definition_says(levels: int) -> None:
    module = attention(levels=levels)
    q, k, v = (spikes(3, 2, 5, 4, seed=seed) for seed in range(3))
    out, state = module.mix(q, k, v, None, None)
    assert state == {}
    torch.testing.assert_close(out, defined(module, q, k, v))


def test_padding_is_removal() -> None:
    module = attention()
    q, k, v = (spikes(1, 2, 6, 4, seed=seed) for seed in range(3))
    valid = torch.tensor([[True, True, True, True, False, False]])
    out, _ = module.mix(q, k, v, valid, None)
    torch.testing.assert_close(out[:, :, :4], defined(module, q[:, :, :4], k[:, :, :4], v[:, :, :4]))


def test_a_silent_query_gives_zeros() -> None:
    module = attention()
    with torch.no_grad():
        module.threshold.fill_(1e3)  # type: ignore[union-attr]
    out, _ = module.mix(*(spikes(1, 2, 5, 4, seed=seed) for seed in range(3)), None, None)
    assert not out.any()


def test_every_parameter_gets_a_gradient() -> None:
    module = attention()
    parts = [spikes(2, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    out, _ = module.mix(*parts, None, None)
    out.square().sum().backward()
    for tensor in (module.threshold, module.log_step, module.qkv.scale, module.qkv.shift, *parts):
        assert tensor is not None
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


def test_the_fit_is_no_worse_than_the_start_and_heeds_padding() -> None:
    module = attention()
    q, k, v = (spikes(4, 2, 7, 4, seed=seed) for seed in range(3))
    valid = torch.ones(4, 7, dtype=torch.bool)
    valid[1, 4:] = False
    assert module.values is not None
    a, b = module.values
    scores = (q * a[0] + b[0]) @ (k * a[1] + b[1]).mT / 2
    weights = scores.masked_fill(~valid[:, None, None], -torch.inf).softmax(-1)
    target = weights @ (v * a[2] + b[2])
    tokens = valid[:, None, :, None]

    def error() -> torch.Tensor:
        with torch.no_grad():
            return ((module.mix(q, k, v, valid, None)[0] - target).square() * tokens).mean((0, 2, 3))

    module.reset_parameters()
    before = error()
    module.fit(q, k, v, valid, target)
    assert (error() <= before).all()
    fitted = module.threshold.clone()  # type: ignore[union-attr]
    spoilt = [torch.where(valid[:, None, :, None], x, 3.0) for x in (q, k, v)]
    module.fit(*spoilt, valid, torch.where(tokens, target, 99.0))
    torch.testing.assert_close(module.threshold, fitted)


@pytest.mark.parametrize(
    ("options", "handed_in", "message"),
    [({"levels": 0}, {}, "levels is 0, expected 1 or more"), ({}, {"causal": True}, "reads a text as a whole")],
)
def test_what_it_refuses(options: dict[str, Any], handed_in: dict[str, Any], message: str) -> None:
    make = build.part("attention", {"type": "firing_scores", **options})
    with pytest.raises(ValueError, match=message):
        make(**{"dim": 8, "heads": 2, "neuron": build.part("neuron", GRID), "causal": False, **handed_in})
