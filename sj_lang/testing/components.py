"""Kits for the parts of a language model: an attention, an embedding, a norm.

    check_norm(lambda: MyNorm(dim=8), dim=8)
    check_embedding(lambda: MyEmbedding(vocab_size=9, dim=8, max_length=16), vocab_size=9, dim=8)
    check_attention(lambda: MyAttention(dim=8, heads=2, causal=True), dim=8, causal=True)

`make` builds a fresh module each time. All checks run, in float64; `PartFailed` names those that
failed, and what they found. Each kit returns the names of those that passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import gradcheck

from sj_lang.masks import State
from sj_lang.testing.compare import assert_close, assert_equal
from sj_lang.testing.padding import masks

MakePart: TypeAlias = Callable[[], nn.Module]
LENGTH, BATCH = 9, 4


class PartFailed(AssertionError):
    """A part failed checks. failures: check -> what it found."""

    def __init__(self, kind: str, failures: dict[str, str]) -> None:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        super().__init__(f"{len(failures)} checks of the {kind} failed\n{lines}")
        self.failures = failures


def check_norm(make: MakePart, *, dim: int) -> list[str]:
    """A norm: `norm(x, mask)`, x `[..., D]`, mask of x's shape without D, True = valid, or None."""

    def shapes_and_dtypes() -> None:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for shape in ((5, 3, dim), (2, 3, 5, dim), (1, 1, dim)):
                x = _noise(*shape).to(dtype)
                for mask in (None, torch.ones(shape[:-1], dtype=torch.bool)):
                    _assert_like(_built(make).to(dtype).eval()(x, mask), shape, dtype)

    def padding_is_removal() -> None:
        for where, mask in masks(LENGTH, BATCH).items():
            x = _noise(LENGTH, BATCH, dim).masked_fill(~mask[..., None], math.nan)
            for training in (True, False):
                norm, alone = _built(make).train(training), _built(make).train(training)
                what = f"padding {where}, {'train' if training else 'eval'}(), x {list(x.shape)}"
                assert_close(norm(x, mask)[mask], alone(x[mask][:, None])[:, 0], f"{what}: against the valid alone")
                for (name, got), want in zip(norm.named_buffers(), alone.buffers(), strict=True):
                    assert_close(got, want, f"{what}: '{name}' against that of the valid alone")

    def gradients_are_exact() -> None:
        norm, mask = _built(make), masks(5, 3)["holes"]
        x = _noise(5, 3, dim).requires_grad_()
        gradcheck(lambda *_: norm(x, mask)[mask], [x, *norm.parameters()], atol=1e-6, fast_mode=True)
        (gradient,) = torch.autograd.grad((norm(x, mask)[mask] * _noise(dim, seed=2)).sum(), x)
        assert not bool(gradient[~mask].any()), f"a gradient reaches masked positions of x {list(x.shape)}"

    def eval_is_per_position() -> None:
        norm, x = _built(make).eval(), _noise(LENGTH, BATCH, dim)
        assert_close(norm(x)[2:3, 1:2], norm(x[2:3, 1:2]), f"eval(): one position alone against x {list(x.shape)}")

    def reset_parameters_begins_anew() -> None:
        norm = _built(make)
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        norm(_noise(LENGTH, BATCH, dim))
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.add_(1)
        assert callable(getattr(norm, "reset_parameters", None)), "no reset_parameters(), by which models initialise it"
        norm.reset_parameters()  # type: ignore[operator]
        for name, value in norm.state_dict().items():
            assert_equal(value, before[name], f"'{name}' after reset_parameters()")

    checks = (shapes_and_dtypes, padding_is_removal, gradients_are_exact, eval_is_per_position)
    return run_checks("norm", (*checks, reset_parameters_begins_anew))


def check_embedding(make: MakePart, *, vocab_size: int, dim: int, causal: bool = False) -> list[str]:
    """`embedding(ids, positions, segments, mask)`, each `[L, B]` or None, to `[L, B, D]`."""

    def call(module: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = module(ids, torch.arange(len(ids))[:, None].expand(ids.shape), None, mask)
        return out

    ids = torch.randint(vocab_size, (LENGTH, BATCH), generator=torch.Generator().manual_seed(0))
    other = (ids + 1) % vocab_size

    def shapes_and_dtypes() -> None:
        for dtype in (torch.float64, torch.float32):
            for part in (ids, ids[:1, :1]):
                _assert_like(call(_built(make).to(dtype), part), (*part.shape, dim), dtype)
        token = getattr(_built(make), "token", None)
        assert isinstance(token, nn.Embedding), "no table of tokens named `token`, an nn.Embedding, to tie the head to"
        assert token.weight.shape == (vocab_size, dim), f"`token` has shape {list(token.weight.shape)}"

    def texts_do_not_mix() -> None:
        module = _built(make).eval()
        assert_close(
            call(module, ids[:, 1:2]), call(module, ids)[:, 1:2], f"a text alone against ids {list(ids.shape)}"
        )

    def padding_is_removal() -> None:
        module, mask = _built(make).eval(), masks(LENGTH, BATCH)["right"]
        out = call(module, torch.where(mask, ids, other), mask)
        for b, length in enumerate(mask.sum(0).tolist()):
            what = f"text {b}, {length} of {LENGTH} tokens valid, against these alone"
            assert_close(out[:length, b : b + 1], call(module, ids[:length, b : b + 1]), what)

    def causal_as_declared() -> None:
        module = _built(make).eval()
        for t in range(1, LENGTH) if causal else ():
            moved = call(module, torch.cat((ids[:t], other[t:])))
            assert_equal(moved[:t], call(module, ids)[:t], f"tokens from {t} on reach those before, of {LENGTH}")

    def gradients_reach_all() -> None:
        module = _built(make)
        _assert_learns(module, call(module, ids))

    checks = (shapes_and_dtypes, texts_do_not_mix, padding_is_removal, causal_as_declared, gradients_reach_all)
    return run_checks("embedding", checks)


def check_attention(make: MakePart, *, dim: int, causal: bool) -> list[str]:
    """`attention(x, state, mask)` to y and a state, x `[L, B, D]` or `[T, B, L, D]`."""
    x = 2 * _noise(LENGTH, BATCH, dim)

    def shapes_and_dtypes() -> None:
        for part in (x, x[:1, :1], _noise(3, BATCH, LENGTH, dim)):
            y, state = _built(make)(part)
            _assert_like(y, part.shape, x.dtype)
            assert isinstance(state, dict), f"the state is a {type(state).__name__}, not a dict"
            assert causal or not state, f"it reads a text as a whole, and returns the state {sorted(state)}"
            for name, value in state.items() if part.dim() == 3 else ():
                assert value.shape[:1] == part.shape[1:2], f"state '{name}' {list(value.shape)}: the batch is not first"

    def texts_do_not_mix() -> None:
        module = _built(make).eval()
        assert_close(module(x[:, 1:2])[0], module(x)[0][:, 1:2], f"a text alone against x {list(x.shape)}")

    def padding_is_removal() -> None:
        module = _built(make).eval()
        for where, mask in masks(LENGTH, BATCH).items():
            y, _ = module(x.masked_fill(~mask[..., None], 1e3), None, mask)
            for b in range(BATCH):
                alone, _ = module(x[mask[:, b], b : b + 1])
                what = f"padding {where}, x {list(x.shape)}, text {b} against its valid tokens alone"
                assert_close(y[mask[:, b], b : b + 1], alone, what)

    def causal_as_declared() -> None:
        module, weights = _built(make).eval(), _noise(LENGTH, BATCH, dim, seed=2)
        reached = []
        for t in range(1, LENGTH):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad((module(leaf)[0] * weights)[:t].sum(), leaf)
            moved, _ = module(torch.cat((x[:t], 3.0 - 5.0 * x[t:])))
            if bool(gradient[t:].any()) or not torch.equal(moved[:t], module(x)[0][:t]):
                reached.append(t)
        assert not (causal and reached), f"declared causal, but tokens from {reached[:1]} on reach those before them"
        assert causal or reached, f"declared not causal, but no token of {LENGTH} reaches one before it"

    def pieces_equal_whole() -> None:
        module, mask = _built(make).eval(), masks(LENGTH, BATCH)["left"]
        for valid in (None, mask) if causal else ():
            want, _ = module(x, None, valid)
            kept = torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid
            for lengths in ((1,) * LENGTH, (4, 1, LENGTH - 5)):
                padded = "" if valid is None else ", left padding,"
                what = f"pieces of {lengths}{padded} against the whole, x {list(x.shape)}"
                assert_close(_in_pieces(module, x, valid, lengths)[kept], want[kept], what)

    def gradients_reach_all() -> None:
        module, leaf = _built(make), x.clone().requires_grad_()
        _assert_learns(module, module(leaf)[0], leaf)

    checks = (shapes_and_dtypes, texts_do_not_mix, padding_is_removal, causal_as_declared, pieces_equal_whole)
    return run_checks("attention", (*checks, gradients_reach_all))


def _in_pieces(module: nn.Module, x: Tensor, mask: Tensor | None, lengths: Iterable[int]) -> Tensor:
    """What an attention returns for x in pieces of these lengths; it must not change its state."""
    state: State | None = None
    pieces, start = [], 0
    for length in lengths:
        part = slice(start, start := start + length)
        before = {name: value.clone() for name, value in (state or {}).items()}
        y, after = module(x[part], state, None if mask is None else mask[part])
        for name, value in before.items():
            assert_equal((state or {})[name], value, f"the state '{name}' that was handed in, after the call")
        pieces.append(y)
        state = after
    return torch.cat(pieces)


def _built(make: MakePart) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().double()


def _noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _assert_like(out: Any, shape: Iterable[int], dtype: torch.dtype) -> None:
    assert isinstance(out, Tensor), f"returns a {type(out).__name__}, not a tensor"
    assert tuple(out.shape) == tuple(shape), f"returns shape {list(out.shape)}, it must be {list(shape)}"
    assert out.dtype == dtype, f"returns {out.dtype} for {dtype}"


def _assert_learns(module: nn.Module, out: Tensor, *inputs: Tensor) -> None:
    """The output repays finite gradients to all parameters and inputs."""
    leaves: State = {name: value for name, value in module.named_parameters() if value.requires_grad}
    leaves |= {f"input {i}": value for i, value in enumerate(inputs)}
    gradients = torch.autograd.grad((out * _noise(*out.shape)).sum(), [*leaves.values()], allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        assert gradient is not None, f"no gradient for '{name}', output {list(out.shape)}"
        assert bool(gradient.isfinite().all()), f"the gradient for '{name}' is not finite, output {list(out.shape)}"


def run_checks(kind: str, checks: Iterable[Callable[[], None]]) -> list[str]:
    passed, failures = [], {}
    for check in checks:
        try:
            check()
        except AssertionError as error:
            failures[check.__name__] = str(error).partition("\nassert ")[0]
        except Exception as error:  # it should have worked
            failures[check.__name__] = f"raised {type(error).__name__}: {error}"
        else:
            passed.append(check.__name__)
    if failures:
        raise PartFailed(kind, failures)
    return passed
