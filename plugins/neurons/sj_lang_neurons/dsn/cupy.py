"""The whole DSN on the GPU, in one kernel forward and one backward: `kernel.cu` as a torch operator."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import operator
from sj_lang_neurons import surrogates
from sj_lang_neurons.firing import Firing
from sj_lang_neurons.scan.cuda_layout import STEPS, Tile, like, memory, schedule, sizes, whole

FILE = Path(__file__).with_name("kernel.cu")
MOST_TAPS = STEPS + 1


def dsn(
    x: Tensor,
    tail: Tensor | None,
    h_0: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    *,
    m: float,
    firing: Firing,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As `flat.dsn`; x may also be float16 or bfloat16, of any strides, tail and h_0 may be None, which is zeros, and
    k is at most `MOST_TAPS`."""
    fused = None if firing.potentials else firing.fused()
    kind, alpha = fused or (surrogates.POTENTIALS, 0.0)
    out, h, next_tail, _ = _forward(x, tail, h_0, weight, bias, lengths, m, kind, alpha, firing.threshold)
    return (out, h, next_tail, None) if fused else (firing(out), h, next_tail, out)


def why_not(x: Tensor | None) -> str:
    """Why it cannot run on this tensor; "" if it can."""
    return cuda.why_not(x)


def _tile(x: Tensor) -> Tile:
    return schedule(math.prod(x.shape[1:]), x.shape[0])


@cache
def _macros(
    dtype: torch.dtype, taps: int, of_bias: int, m: float, kind: int, following: bool, tile: Tile
) -> dict[str, int]:
    power = int(m) if m.is_integer() and m <= 64 else 0
    own = {"IO": cuda.IO[dtype], "TAPS": taps, "LOGIT": int(of_bias > 1), "POWER": power, "FIRE": kind}
    return {**own, "NEXT": int(following), **tile.macros}


def _launch(name: str, x: Tensor, tile: Tile, macros: dict[str, int], arguments: list[Any]) -> None:
    cuda.launch(FILE, name, macros, (tile.blocks(math.prod(x.shape[1:])), 1), tile.block, arguments, x.device)


@operator("sj_lang::dsn_cuda")
def _forward(
    x: Tensor,
    tail: Tensor | None,
    h_0: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes or potentials of x [T, B, C, ...], the last potential, the last inputs [B, k-1, C, ...], and the
    potentials before each tile [tiles, B, C, ...]."""
    tile = _tile(x)
    results = _results(x, weight, kind, tile)
    out, *states = results
    given = map(whole, (tail, h_0, weight, bias))
    arguments = [*memory(x), *given, lengths, *memory(out), *states, *sizes(x), m, alpha, threshold]
    _launch("dsn", x, tile, _macros(x.dtype, weight.shape[1], bias.dim(), m, kind, False, tile), arguments)
    return results


def _results(x: Tensor, weight: Tensor, kind: int, tile: Tile) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps, *step = x.shape
    out = like(x, None if kind else weight.dtype)
    tail = weight.new_empty(step[0], max(weight.shape[1] - 1, 0), *step[1:])
    return out, weight.new_empty(step), tail, weight.new_empty(tile.tiles(steps), *step)


@_forward.register_fake
def _(
    x: Tensor,
    tail: Tensor | None,
    h_0: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _results(x, weight, kind, _tile(x))


@operator("sj_lang::dsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_last: Tensor | None,
    grad_next: Tensor | None,
    borders: Tensor,
    x: Tensor,
    tail: Tensor | None,
    h_0: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x; of tail and h_0 (empty where those are not there); of weight and bias together, before they are
    summed over batch and places [k + 1, B, C, S]; and of a bias for each step (else empty)."""
    results = _gradients(x, tail, h_0, weight, bias)
    grad_x, *others = results
    given = map(whole, (tail, weight, bias))
    wanted = [None if g.numel() == 0 else g for g in others]
    arguments = [*memory(grad), whole(grad_last), whole(grad_next), borders, *memory(x), *given, lengths]
    arguments += [*memory(grad_x), *wanted, *sizes(x), m, alpha, threshold]
    tile = _tile(x)
    macros = _macros(x.dtype, weight.shape[1], bias.dim(), m, kind, grad_next is not None, tile)
    _launch("dsn_backward", x, tile, macros, arguments)
    return results


def _gradients(
    x: Tensor, tail: Tensor | None, h_0: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    absent = (0,)
    return (
        like(x),
        weight.new_empty(absent if tail is None else tail.shape),
        weight.new_empty(absent if h_0 is None else h_0.shape),
        weight.new_empty(weight.shape[1] + 1, *sizes(x)[1:]),
        weight.new_empty(bias.shape if bias.dim() > 1 else absent),
    )


@_backward.register_fake
def _(
    grad: Tensor,
    grad_last: Tensor | None,
    grad_next: Tensor | None,
    borders: Tensor,
    x: Tensor,
    tail: Tensor | None,
    h_0: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    m: float,
    kind: int,
    alpha: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(x, tail, h_0, weight, bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *given, m, kind, alpha, threshold = inputs
    ctx.numbers = m, kind, alpha, threshold
    ctx.save_for_backward(output[3], *given)
    ctx.set_materialize_grads(False)  # a zero is a launch


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_last: Tensor | None, grad_next: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    _, x, tail, h_0, weight, bias, _ = saved = ctx.saved_tensors
    if grad is None:
        grad = x.new_zeros((), dtype=x.dtype if ctx.numbers[1] else weight.dtype).expand(x.shape)
    grad_x, grad_tail, grad_0, sums, grad_logit = _backward(grad, grad_last, grad_next, *saved, *ctx.numbers)
    of_channels = sums.sum((1, 3))  # [k + 1, C]
    return (
        grad_x,
        None if tail is None else grad_tail,
        None if h_0 is None else grad_0,
        of_channels[:-1].t(),
        of_channels[-1] if bias.dim() == 1 else grad_logit,
        *(None,) * 5,
    )


_forward.register_autograd(_differentiate, setup_context=_keep)
