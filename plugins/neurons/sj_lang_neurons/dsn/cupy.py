"""The whole DSN on the GPU, one kernel each way: `kernel.cu` as a torch operator."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import gradients, kept, operator
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.dsn.inputs import DSNInputs, DSNOutputs
from sj_lang_neurons.firing import Firing
from sj_lang_neurons.scan.cuda_layout import STEPS, Tile, keep, like, memory, schedule, sizes, whole, zeros

FILE = Path(__file__).with_name("kernel.cu")
MOST_TAPS = STEPS + 1


def dsn_cupy(inputs: DSNInputs, firing: Firing) -> DSNOutputs:
    """The kernel of backend "cupy", for up to `MOST_TAPS` taps; tail or h_0 None: zeros."""
    fused = firing.fused()
    out, h, tail, _ = _forward(inputs, *fused)
    return DSNOutputs(out if fused.kind else firing(out), h, tail, None if fused.kind else out)


def too_many_taps(k: int) -> str:
    """Why the kernel cannot take so many; "" if it can."""
    return f"takes at most {MOST_TAPS} taps, k is {k}" if k > MOST_TAPS else ""


def _tile(inputs: DSNInputs, kind: int) -> Tile:
    x = inputs.x
    return cupy_fast.schedule(inputs, kind) or schedule(math.prod(x.shape[1:]), x.shape[0])


@cache
def _macros(
    dtype: torch.dtype, taps: int, of_bias: int, m: float, kind: int, following: bool, tile: Tile
) -> cuda.Macros:
    power = int(m) if m.is_integer() and m <= 64 else 0
    variant = {"IO": cuda.IO[dtype], "TAPS": taps, "LOGIT": int(of_bias > 1), "POWER": power, "FIRE": kind}
    return cuda.macros_of(**variant, NEXT=int(following), **tile.macros)


def _variant(inputs: DSNInputs, kind: int, following: bool, tile: Tile) -> cuda.Macros:
    return _macros(inputs.x.dtype, inputs.weight.shape[1], inputs.bias.dim(), inputs.m, kind, following, tile)


def _launch(name: str, inputs: DSNInputs, kind: int, following: bool, arguments: list[Any]) -> None:
    x, tile = inputs.x, _tile(inputs, kind)
    macros = _variant(inputs, kind, following, tile)
    cuda.launch(FILE, name, macros, (tile.blocks(math.prod(x.shape[1:])), 1), tile.block, arguments, x.device)


@operator("sj_lang::dsn_cuda")
def _forward(
    inputs: DSNInputs, kind: int, alpha: float, threshold: float, margin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes or potentials, last potential, last inputs, potentials before each tile."""
    x, tail, h_0, weight, bias, lengths, m = inputs
    out, *states = results = _results(inputs, kind)
    fast = cupy_fast.schedule(inputs, kind)
    if fast and cupy_fast.aligned(x, out):
        cupy_fast.forward(inputs, _variant(inputs, kind, False, fast), fast, results, alpha, threshold)
        return results
    read = [*memory(x), *map(whole, (tail, h_0, weight, bias)), lengths]
    _launch("dsn", inputs, kind, False, [*read, *memory(out), *states, *sizes(x), m, alpha, threshold])
    return results


def _results(inputs: DSNInputs, kind: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight = inputs.x, inputs.weight
    steps, *step = x.shape
    out = like(x, None if kind else weight.dtype)
    tail = weight.new_empty(step[0], max(weight.shape[1] - 1, 0), *step[1:])
    return out, weight.new_empty(step), tail, weight.new_empty(_tile(inputs, kind).tiles(steps), *step)


_forward.register_fake(lambda inputs, kind, *_: _results(inputs, kind))


@operator("sj_lang::dsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_last: Tensor | None,
    grad_next: Tensor | None,
    borders: Tensor,
    inputs: DSNInputs,
    kind: int,
    alpha: float,
    threshold: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x; tail, h_0 or empty; weight and bias by column; stepwise bias or empty."""
    x = inputs.x
    grad_x, *others = results = _gradients(inputs)
    fast = None if grad_next is not None else cupy_fast.schedule(inputs, kind)
    if fast and cupy_fast.aligned(x, grad, grad_x):
        read_fast, sums = (grad, whole(grad_last), borders), others[2]
        variant = _variant(inputs, kind, False, fast)
        cupy_fast.backward(inputs, variant, fast, read_fast, (grad_x, sums), alpha, threshold, margin)
        return results
    write = [*memory(grad_x), *(None if g.numel() == 0 else g for g in others)]
    parameters = map(whole, (inputs.tail, inputs.weight, inputs.bias))
    read = [*memory(grad), whole(grad_last), whole(grad_next), borders, *memory(x), *parameters, inputs.lengths]
    arguments = [*read, *write, *sizes(x), inputs.m, alpha, threshold, margin]
    _launch("dsn_backward", inputs, kind, grad_next is not None, arguments)
    return results


def _gradients(inputs: DSNInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    weight, bias, absent = inputs.weight, inputs.bias, (0,)
    return (
        like(inputs.x),
        weight.new_empty(absent if inputs.tail is None else inputs.tail.shape),
        weight.new_empty(absent if inputs.h_0 is None else inputs.h_0.shape),
        weight.new_empty(weight.shape[1] + 1, *sizes(inputs.x)[1:]),
        weight.new_empty(bias.shape if bias.dim() > 1 else absent),
    )


_backward.register_fake(lambda grad, grad_last, grad_next, borders, inputs, *_: _gradients(inputs))


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_last: Tensor | None, grad_next: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    (borders,), inputs = kept(ctx, DSNInputs)
    grad = zeros(inputs.x, inputs.weight, ctx.rest[0]) if grad is None else grad
    grad_x, grad_tail, grad_0, sums, grad_logit = _backward(grad, grad_last, grad_next, borders, inputs, *ctx.rest)
    of_channels = sums.sum((1, 3))  # [k + 1, C]
    grad_bias = of_channels[-1] if inputs.bias.dim() == 1 else grad_logit
    return gradients(ctx, DSNInputs, x=grad_x, tail=grad_tail, h_0=grad_0, weight=of_channels[:-1].t(), bias=grad_bias)


_forward.register_autograd(_differentiate, setup_context=keep)
