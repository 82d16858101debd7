"""The two attention functions: chunked against the masked quadratic form, cached against whole."""

from __future__ import annotations

import pytest
import torch
from sj_lang_language.attention.dot_product import causal_softmax, whole_softmax
from sj_lang_language.attention.linear import causal_linear, whole_linear

from sj_lang import build


def spikes(*shape: int, levels: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(0, levels + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quadratic(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).masked_fill(torch.ones(q.shape[-2], q.shape[-2]).triu(1).bool(), 0) @ v


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize(
    ("length", "chunk"), [(1, 64), (7, 64), (64, 64), (65, 64), (200, 64), (13, 1), (13, 5), (12, 4)]
)
def test_chunks_equal_the_masked_quadratic_form_exactly(length: int, chunk: int, levels: int) -> None:
    q, k, v = (spikes(2, 3, length, 8, levels=levels, seed=seed) for seed in range(3))
    out, state = causal_linear(q, k, v, chunk=chunk)
    assert torch.equal(out, quadratic(q, k, v))
    assert torch.equal(state, k.mT @ v)


@pytest.mark.parametrize("cut", [1, 5, 6, 12])
def test_a_carried_state_continues_exactly_and_is_left_as_it_is(cut: int) -> None:
    q, k, v = (spikes(2, 13, 4, levels=3, seed=seed) for seed in range(3))
    first, state = causal_linear(q[:, :cut], k[:, :cut], v[:, :cut], chunk=5)
    before = state.clone()
    second, last = causal_linear(q[:, cut:], k[:, cut:], v[:, cut:], state, chunk=5)
    assert torch.equal(torch.cat([first, second], 1), quadratic(q, k, v))
    assert torch.equal(last, k.mT @ v)
    assert torch.equal(state, before)


def test_gradients_of_chunks_equal_those_of_the_quadratic_form() -> None:
    parts = [torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weight = torch.randn(2, 11, 3, dtype=torch.float64)
    wanted = torch.autograd.grad((quadratic(*parts) * weight).sum(), parts)
    found = torch.autograd.grad((causal_linear(*parts, chunk=4)[0] * weight).sum(), parts)
    for mine, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, right)


def test_memory_is_linear_in_the_length() -> None:
    def saved(length: int) -> int:
        parts = [spikes(1, length, 8, seed=seed).requires_grad_() for seed in range(3)]
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = causal_linear(*parts, chunk=16)[0]
        del out
        return sum(kept.values())

    assert saved(1024) <= 2.2 * saved(512)


def test_half_precision_counts_exactly() -> None:
    # sums far beyond 256, bfloat16's last integer
    q, k, v = (spikes(1, 600, 4, seed=seed) + 1 for seed in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = causal_linear(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert state.dtype == torch.float32
    assert torch.equal(out, quadratic(q, k, v))


def remembered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor) -> torch.Tensor:
    """The definition, token by token."""
    memory, rows = torch.zeros_like(k.mT @ v), []
    for t in range(q.shape[-2]):
        memory = memory * log_decay[..., t, None, None].exp() + k[..., t, :, None] * v[..., t, None, :]
        rows.append((q[..., t, None, :] @ memory).squeeze(-2))
    return torch.stack(rows, dim=-2)


def decaying(length: int) -> list[torch.Tensor]:
    parts = [torch.randn(2, 3, length, 4, dtype=torch.float64) for _ in range(3)]
    return [*parts, -torch.rand(2, 3, length, dtype=torch.float64) * 3]


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (4, 4), (13, 4), (13, 1), (130, 64), (150, None)])
def test_decays_in_chunks_are_the_definition_with_its_gradients(length: int, chunk: int | None) -> None:
    torch.manual_seed(0)
    parts = [part.requires_grad_() for part in decaying(length)]
    right = remembered(*parts)
    out = causal_linear(*parts[:3], chunk=chunk, log_decay=parts[3])[0]
    torch.testing.assert_close(out, right)
    weight = torch.randn_like(right)
    # the first decay has nothing to forget
    mine, reference = (
        torch.autograd.grad((y * weight).sum(), parts, allow_unused=True, materialize_grads=True) for y in (out, right)
    )
    torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_decayed_state_continues(cut: int) -> None:
    torch.manual_seed(0)
    parts = decaying(13)
    first, state = causal_linear(*(x[..., :cut, :] for x in parts[:3]), chunk=4, log_decay=parts[3][..., :cut])
    rest = [x[..., cut:, :] for x in parts[:3]]
    second, last = causal_linear(*rest, state, 4, parts[3][..., cut:])
    torch.testing.assert_close(torch.cat([first, second], -2), remembered(*parts))
    torch.testing.assert_close(last, causal_linear(*parts[:3], chunk=13, log_decay=parts[3])[1])


def test_a_steep_decay_forgets_and_does_not_overflow() -> None:
    q, k, v = (spikes(1, 300, 4, seed=seed) for seed in range(3))
    out, state = causal_linear(q, k, v, log_decay=torch.full((1, 300), -1e4))
    assert torch.equal(out, (q * k).sum(-1, keepdim=True) * v)
    assert torch.equal(state, k[:, -1:].mT @ v[:, -1:])


def test_softmax_with_cache_and_padding_equals_each_text_alone() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 4) for _ in range(3))
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    whole, _ = causal_softmax(q, k, v, valid)
    alone, _ = causal_softmax(q[1:, :, 4:], k[1:, :, 4:], v[1:, :, 4:])
    torch.testing.assert_close(whole[1:, :, 4:], alone)
    first, state = causal_softmax(q[:, :, :6], k[:, :, :6], v[:, :, :6], valid[:, :6])
    second, _ = causal_softmax(q[:, :, 6:], k[:, :, 6:], v[:, :, 6:], valid[:, 6:], state)
    torch.testing.assert_close(torch.cat([first, second], 2), whole)
    assert state["k"].shape[2] == 6
    assert whole.isfinite().all()


def test_over_a_whole_text_the_cheaper_order_of_products_gives_the_same() -> None:
    for length in (3, 40):
        q, k, v = (spikes(2, 3, length, 8, seed=seed) for seed in range(3))
        assert torch.equal(whole_linear(q, k, v), (q @ k.mT) @ v)


def test_softmax_over_a_whole_text_reads_valid_tokens_only() -> None:
    q, k, v = (torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4:] = False
    found = whole_softmax(q, k, v, valid, scale=0.7)
    right = ((q[1, :, :4] @ k[1, :, :4].mT) * 0.7).softmax(-1) @ v[1, :, :4]
    torch.testing.assert_close(found[1, :, :4], right)
    torch.testing.assert_close(found[:1], whole_softmax(q[:1], k[:1], v[:1], scale=0.7))
    # repeat coding: [B, T, H, L, K]
    repeated = [x[:, None].expand(-1, 5, -1, -1, -1) for x in (q, k, v)]
    torch.testing.assert_close(whole_softmax(*repeated, valid, scale=0.7)[:, 3], found)
    assert whole_softmax(q, k, v, torch.zeros_like(valid)).isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "ssa"])
@pytest.mark.parametrize("causal", [True, False])
def test_an_attention_alone_is_as_its_equation(name: str, causal: bool) -> None:
    torch.manual_seed(0)
    make = build.part("attention", name)
    node = build.part("neuron", "if")
    attention = make(dim=8, heads=2, neuron=node, causal=causal, bias=True)
    with torch.no_grad():
        for module in (attention.query, attention.key, attention.value, attention.out_proj):
            module.weight.mul_(6)
        x = torch.randn(5, 1, 8) * 2  # [L, B, D]
        s = node(channels=8).functional(x)[0]
        projected = [module(s) for module in (attention.query, attention.key, attention.value)]
        q, k, v = (node(channels=8).functional(p)[0][:, 0].view(5, 2, 4).transpose(0, 1) for p in projected)
        scores = q @ k.mT
        hidden = torch.ones(5, 5).triu(1).bool() if causal else torch.zeros(5, 5).bool()
        if name == "softmax":
            o = attention.gain * (scores * attention.scale / 2).masked_fill(hidden, -torch.inf).softmax(-1) @ v
        else:
            o = scores.masked_fill(hidden, 0) @ v * attention.scale
        o = o.transpose(0, 1).reshape(5, 1, 8)
        y = attention.out_proj(node(channels=8).functional(o)[0])
        assert q.any()
        torch.testing.assert_close(attention(x)[0], y)


def test_a_whole_text_has_no_state() -> None:
    attention = build.part("attention", "softmax")(dim=8, heads=2, neuron=build.part("neuron", "if"), causal=False)
    x = torch.randn(5, 1, 8)
    assert attention(x)[1] == {}
    with pytest.raises(ValueError, match="cannot continue from a state"):
        attention(x, {})
    with pytest.raises(ValueError, match="heads 3 must divide dim 8"):
        build.part("attention", "ssa")(dim=8, heads=3, neuron=build.part("neuron", "if"))


def test_short_sequences_train_in_half_precision_without_the_flash_kernel() -> None:
    """Its backward pass takes 8 times as long as the plain one at 40 keys."""

    def kernels(dtype: torch.dtype, length: int, *, trained: bool) -> set[str]:
        q, k, v = (torch.randn(2, 2, length, 4, dtype=dtype, requires_grad=trained) for _ in range(3))
        with torch.profiler.profile() as calls:
            whole_softmax(q, k, v)
        return {call.key for call in calls.key_averages() if "flash" in call.key}

    assert not kernels(torch.bfloat16, 40, trained=True)
    assert kernels(torch.bfloat16, 40, trained=False)
    assert kernels(torch.bfloat16, 200, trained=True)
    assert kernels(torch.float32, 40, trained=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels(torch.float32, 40, trained=True)


def test_the_mask_of_one_token_after_many_is_as_long_as_they_are() -> None:
    keys = 300_000  # squared they would not fit into memory
    state = {"k": torch.zeros(1, 1, keys, 1), "v": torch.ones(1, 1, keys, 1)}
    state |= {"valid": torch.ones(1, keys, dtype=torch.bool)}
    out, _ = causal_softmax(*torch.zeros(3, 1, 1, 1, 1), state=state)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1), keys / (keys + 1)))
