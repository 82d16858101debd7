"""Kits for the parts of a language model: an attention, an embedding, a norm.

    check_norm(lambda: MyNorm(dim=8), dim=8)
    check_embedding(lambda: MyEmbedding(vocab_size=9, dim=8, max_length=16), vocab_size=9, dim=8)
    check_attention(lambda: MyAttention(dim=8, heads=2, causal=True), dim=8, causal=True)

`make` builds a fresh module each time. All checks run, in float64; `PartFailed` names those that
failed, and what they found. Each kit returns the names of those that passed.
"""

from __future__ import annotations

import inspect
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
#: longer than a chunk of what computes a text in chunks
LONG = 70


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
        for where, mask in _masks_of_both_codings():
            x = _noise(*mask.shape, dim).masked_fill(~mask[..., None], math.nan)
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
        norm = _built(make).eval()
        before = {name: value.clone() for name, value in norm.named_buffers()}
        norm(_noise(LENGTH, BATCH, dim))
        for name, value in norm.named_buffers():
            assert_equal(value, before[name], f"eval(): '{name}' after a call")
        for x in (_noise(LENGTH, BATCH, dim), _noise(2, BATCH, LENGTH, dim)):
            one = x[1:2, 1:2] if x.dim() == 3 else x[1:2, 1:2, 2:3]
            whole = norm(x)[1:2, 1:2] if x.dim() == 3 else norm(x)[1:2, 1:2, 2:3]
            assert_close(whole, norm(one), f"eval(): one position alone against x {list(x.shape)}")

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

    def call(module: nn.Module, ids: Tensor, mask: Tensor | None = None, **vectors: Tensor) -> Tensor:
        valid = torch.ones_like(ids) if mask is None else mask.long()
        out: Tensor = module(ids, (valid.cumsum(0) - 1).clamp_min(0), None, mask, **vectors)
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
        module = _built(make).eval()
        for where, mask in masks(LENGTH, BATCH).items():
            if not causal and where != "right":  # where a model that reads a text as a whole has it
                continue
            out = call(module, torch.where(mask, ids, other), mask)
            for b in range(BATCH):
                valid = mask[:, b]
                what = f"padding {where}, text {b}, {int(valid.sum())} of {LENGTH} tokens valid, against these alone"
                assert_close(out[valid, b : b + 1], call(module, ids[valid, b : b + 1]), what)

    def causal_as_declared() -> None:
        module = _built(make).eval()
        for t in range(1, LENGTH) if causal else ():
            moved = call(module, torch.cat((ids[:t], other[t:])))
            assert_equal(moved[:t], call(module, ids)[:t], f"tokens from {t} on reach those before, of {LENGTH}")

    def vectors_stand_for_the_table() -> None:
        module = _built(make).eval()
        if "vectors" not in inspect.signature(module.forward).parameters:
            return
        rows = module.token(other)  # type: ignore[operator]
        assert_close(call(module, ids, vectors=rows), call(module, other), "vectors= of the table's rows, against ids")

    def gradients_reach_all() -> None:
        module = _built(make)
        _assert_learns(module, call(module, ids))

    checks = (shapes_and_dtypes, texts_do_not_mix, padding_is_removal, causal_as_declared)
    return run_checks("embedding", (*checks, vectors_stand_for_the_table, gradients_reach_all))


def check_attention(make: MakePart, *, dim: int, causal: bool) -> list[str]:
    """`attention(x, state, mask)` to y and a state, x `[L, B, D]` or `[T, B, L, D]`."""
    x = 2 * _noise(LENGTH, BATCH, dim)
    repeated = 2 * _noise(2, BATCH, LENGTH, dim)
    codings = ((x, 0), (repeated, 2))  # with the axis of the tokens

    def shapes_and_dtypes() -> None:
        for part in (x, x[:1, :1], _noise(3, BATCH, LENGTH, dim)):
            y, state = _built(make).eval()(part)
            _assert_like(y, part.shape, x.dtype)
            assert isinstance(state, dict), f"the state is a {type(state).__name__}, not a dict"
            assert causal or not state, f"it reads a text as a whole, and returns the state {sorted(state)}"
            for name, value in state.items() if part.dim() == 3 else ():
                assert value.shape[:1] == part.shape[1:2], f"state '{name}' {list(value.shape)}: the batch is not first"

    def texts_do_not_mix() -> None:
        module = _built(make).eval()
        for whole, _ in codings:
            what = f"a text alone against x {list(whole.shape)}"
            assert_close(module(whole[:, 1:2])[0], module(whole)[0][:, 1:2], what)

    def padding_is_removal() -> None:
        module = _built(make).eval()
        for where, mask in _masks_of_both_codings():
            whole = x if mask.dim() == 2 else repeated
            y, _ = module(whole.masked_fill(~mask[..., None], 1e3), None, mask)
            for b in range(BATCH):
                if mask.dim() == 2:
                    valid, alone = y[mask[:, b], b : b + 1], module(x[mask[:, b], b : b + 1])[0]
                else:
                    kept = mask[0, b]
                    valid, alone = y[:, b : b + 1, kept], module(repeated[:, b : b + 1, kept])[0]
                what = f"padding {where}, x {list(whole.shape)}, text {b} against its valid tokens alone"
                assert_close(valid, alone, what)

    def causal_as_declared() -> None:
        module = _built(make).eval()
        long = (2 * _noise(LONG, 1, dim), 0)
        reached = [
            (t, list(whole.shape))
            for whole, axis in (*codings, long)
            for t in (range(1, LENGTH) if whole.shape[axis] == LENGTH else range(31, LONG, 19))
            if _reaches_back(module, whole, axis, t)
        ]
        first = "; ".join(f"tokens from {t} on of x {shape}" for t, shape in reached[:1])
        assert not (causal and reached), f"declared causal, but {first} reach those before them"
        assert causal or reached, f"declared not causal, but no token of {LENGTH} reaches one before it"
        leaf = x.clone().requires_grad_()
        y = _built(make)(leaf)[0]
        for t in range(1, LENGTH) if causal else ():
            assert not looks_ahead(y[:t, 0], leaf, t, 0), f"declared causal, but in train() {t} tokens see later ones"

    def pieces_equal_whole() -> None:
        module, mask, long = _built(make).eval(), masks(LENGTH, BATCH)["left"], 2 * _noise(LONG, 1, dim)
        short = (1,) * LENGTH, (4, 1, LENGTH - 5)
        cases = ((x, None, short), (x, mask, short), (long, None, ((37, 1, LONG - 38),)))
        for whole, valid, cuts in cases if causal else ():
            want, _ = module(whole, None, valid)
            kept = torch.ones(whole.shape[:2], dtype=torch.bool) if valid is None else valid
            for lengths in cuts:
                padded = "" if valid is None else ", left padding,"
                what = f"pieces of {lengths}{padded} against the whole, x {list(whole.shape)}"
                assert_close(_in_pieces(module, whole, valid, lengths)[kept], want[kept], what)

    def gradients_reach_all() -> None:
        module, leaf = _built(make), x.clone().requires_grad_()
        _assert_learns(module, module(leaf)[0], leaf)

    checks = (shapes_and_dtypes, texts_do_not_mix, padding_is_removal, causal_as_declared, pieces_equal_whole)
    return run_checks("attention", (*checks, gradients_reach_all))


def looks_ahead(first: Tensor, x: Tensor, t: int, axis: int) -> bool:
    """Whether outputs of the first text before token t have a gradient at its later tokens.

    In training a batch norm mixes tokens, and texts as well: then it says nothing.
    """
    (gradient,) = torch.autograd.grad((first * _noise(*first.shape, seed=2)).sum(), x, retain_graph=True)
    tokens_first = gradient.movedim(axis, 0)  # [L, B, D]
    return bool(tokens_first[t:, 0].any()) and not bool(tokens_first[:, 1:].any())


def _reaches_back(module: nn.Module, x: Tensor, axis: int, t: int) -> bool:
    """Whether tokens from t on change what comes out before them, or have a gradient there."""
    leaf = x.clone().requires_grad_()
    y = module(leaf)[0]
    weighted = (y * _noise(*x.shape, seed=2)).narrow(axis, 0, t)
    (gradient,) = torch.autograd.grad(weighted.sum(), leaf)
    place = (slice(None),) * axis + (slice(t, None),)
    other = x.clone()
    other[place] = 3.0 - 5.0 * x[place]
    moved = module(other)[0].narrow(axis, 0, t)
    return bool(gradient[place].any()) or not torch.equal(moved, y.narrow(axis, 0, t))


def _masks_of_both_codings() -> list[tuple[str, Tensor]]:
    """Masks of each kind, `[L, B]` and `[T, B, L]`."""
    named = list(masks(LENGTH, BATCH).items())
    return named + [(where, mask.T.expand(2, -1, -1)) for where, mask in named]


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
