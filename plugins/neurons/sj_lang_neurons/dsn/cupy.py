"""The whole DSN on the GPU, one kernel each way: `kernel.cu` as a torch operator."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import kept, operator
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.dsn.inputs import DSNInputs, DSNOutputs
from sj_lang_neurons.firing import Firing
from sj_lang_neurons.scan import chain
from sj_lang_neurons.scan.cuda_layout import (
    STEPS,
    Tile,
    flat,
    keep,
    layout,
    like,
    schedule,
    sizes,
    strides,
    whole,
    zeros,
)

FILE = Path(__file__).with_name("kernel.cu")
MOST_TAPS = STEPS + 1

Shapes = Sequence[tuple[int, ...] | None]


def dsn_cupy(inputs: DSNInputs, firing: Firing) -> DSNOutputs:
    """The kernel of backend "cupy", for up to `MOST_TAPS` taps; tail or h_0 None: zeros."""
    fused = firing.fused()
    out, h, tail, *_ = _forward(inputs, *fused)
    return DSNOutputs(out if fused.kind else firing(out), h, tail, None if fused.kind else out)


def too_many_taps(k: int) -> str:
    """Why the kernel cannot take so many; "" if it can."""
    return f"takes at most {MOST_TAPS} taps, k is {k}" if k > MOST_TAPS else ""


class _PlannedKernel(NamedTuple):
    """A kernel for all calls of one shape. words: of the memory that blocks need to share a column,
    or 0. shapes: of the results in the dtype of the states.
    """

    words: int
    fast: bool
    run: cuda.Plan
    shapes: Shapes

    def __call__(self, *tensors: Tensor | None, device: torch.device) -> None:
        self.run(*tensors, chain.memory(self.words, device))


def _tile(inputs: DSNInputs, kind: int, *, following: bool = False) -> Tile:
    """following: the last inputs have a gradient, with which blocks cannot share a column."""
    x = inputs.x
    tile = cupy_fast.schedule(inputs, kind) or schedule(math.prod(x.shape[1:]), x.shape[0])
    return replace(tile, split=False) if following and tile.split else tile


def _shared_key(inputs: DSNInputs) -> tuple[Any, ...]:
    """What both passes depend on, beside firing and alignment."""
    x, tail, h_0, weight, bias, lengths, m = inputs
    absent = tail is None, h_0 is None, lengths is None
    return x.shape, x.stride(), x.dtype, x.device, absent, weight.shape[1], bias.dim(), m


def _plan(
    name: str,
    inputs: DSNInputs,
    firing: Sequence[float],
    tensors: tuple[int, int],
    layouts: Sequence[Tensor],
    shapes: Callable[[DSNInputs, Tile], Shapes],
    *,
    following: bool = False,
    aligned: bool,
) -> _PlannedKernel:
    """firing: a kind and its numbers. tensors: how many the kernel takes with bounds, and without,
    beside the memory of split sequences. layouts: the sequences that it reads and writes, which may
    be on the meta device. shapes: of its other results.
    """
    x, m, kind = inputs.x, inputs.m, int(firing[0])
    tile = _tile(inputs, kind, following=following)
    fast = aligned and cupy_fast.schedule(inputs, kind) is not None and cupy_fast.in_words(*layouts)
    power = int(m) if m.is_integer() and m <= 64 else 0
    variant = {"TAPS": inputs.weight.shape[1], "LOGIT": int(inputs.bias.dim() > 1), "POWER": power, "FIRE": kind}
    macros = cuda.macros_of(IO=cuda.IO[x.dtype], **variant, NEXT=int(following), **tile.macros)
    steps, columns, numbers = x.shape[0], math.prod(x.shape[1:]), (m, *firing[1:])
    if fast:
        constants = cupy_fast.constants(layouts, x, numbers)
        groups = columns // (2 * tile.columns)
        path, name, pointers = cupy_fast.FILE, name.replace("dsn", "dsn_fast"), tensors[1]
    else:
        constants = [*(stride for y in layouts for stride in strides(y)), *sizes(x), *numbers]
        groups = tile.blocks(columns)
        path, pointers = FILE, tensors[0]
    run = cuda.Plan(path, name, macros, tile.grid(groups, steps), tile.block, pointers + 1, constants, x.device)
    links = 1 if name in ("dsn", "dsn_fast") else max(inputs.weight.shape[1], 1)
    words = chain.words(links, tile.tiles(steps), columns, inputs.weight.dtype) if tile.split else 0
    return _PlannedKernel(words, fast, run, shapes(inputs, tile))


@operator("sj_lang::dsn_cuda")
def _forward(
    inputs: DSNInputs, kind: int, alpha: float, threshold: float, margin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes or potentials, last potential, last inputs, potentials before each tile."""
    x, tail, h_0, weight, bias, lengths, _ = inputs
    aligned = x.data_ptr() % 4 == 0
    key = ("dsn", *_shared_key(inputs), kind, alpha, threshold, aligned)
    planned = cuda.PLANS.get(key)
    if planned is None:
        out = layout(x, None if kind else weight.dtype)
        firing = kind, alpha, threshold
        planned = _plan("dsn", inputs, firing, (10, 7), (x, out), _shapes_of_results, aligned=aligned)
        cuda.remember(key, planned)
    out, *states = results = _results(inputs, kind, planned.shapes)
    weight, bias = weight.contiguous(), bias.contiguous()
    if planned.fast:
        planned(x, weight, bias, *results, device=x.device)
    else:
        planned(flat(x), whole(tail), whole(h_0), weight, bias, lengths, flat(out), *states, device=x.device)
    return results


def _shapes_of_results(inputs: DSNInputs, tile: Tile) -> Shapes:
    steps, batch, *places = inputs.x.shape
    reach = max(inputs.weight.shape[1] - 1, 0)
    return (batch, *places), (batch, reach, *places), (tile.tiles(steps), batch, *places)


def _results(inputs: DSNInputs, kind: int, shapes: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new, (h, tail, borders) = inputs.weight.new_empty, shapes
    return like(inputs.x, None if kind else inputs.weight.dtype), new(h), new(tail), new(borders)


@_forward.register_fake
def _(inputs: DSNInputs, kind: int, *_: float) -> Any:
    return _results(inputs, kind, _shapes_of_results(inputs, _tile(inputs, kind)))


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
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x; weight and bias by part of a column; what there is of tail, h_0 and a
    stepwise bias.
    """
    x, tail, _, weight, bias, lengths, _ = inputs
    aligned, following = (x.data_ptr() | grad.data_ptr()) % 4 == 0, grad_next is not None
    key = ("dsn_backward", *_shared_key(inputs), grad.stride(), kind, alpha, threshold, margin, following, aligned)
    planned = cuda.PLANS.get(key)
    if planned is None:
        firing, layouts = (kind, alpha, threshold, margin), (grad, x, layout(x))
        options = {"following": following, "aligned": aligned and not following}
        planned = _plan("dsn_backward", inputs, firing, (14, 8), layouts, _shapes_of_gradients, **options)
        cuda.remember(key, planned)
    grad_x, sums, others = results = _gradients(inputs, planned.shapes)
    weight, bias = weight.contiguous(), bias.contiguous()
    if planned.fast:
        planned(grad, whole(grad_last), borders, x, weight, bias, grad_x, sums, device=x.device)
        return results
    grad_tail, grad_0, grad_logit = _apart(inputs, others)
    planned(
        *(flat(grad), whole(grad_last), whole(grad_next), borders, flat(x), whole(tail), weight, bias, lengths),
        *(flat(grad_x), grad_tail, grad_0, sums, grad_logit),
        device=x.device,
    )
    return results


def _shapes_of_gradients(inputs: DSNInputs, tile: Tile) -> Shapes:
    others = [value.numel() for value in _others(inputs) if value is not None]
    steps, batch, channels, places = sizes(inputs.x)
    sums = (inputs.weight.shape[1] + 1, tile.parts(steps) * batch, channels, places)
    return sums, (sum(others),) if others else None


def _gradients(inputs: DSNInputs, shapes: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    new, (sums, others) = inputs.weight.new_empty, shapes
    return like(inputs.x), new(sums), None if others is None else new(others)


def _others(inputs: DSNInputs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return inputs.tail, inputs.h_0, inputs.bias if inputs.bias.dim() > 1 else None


def _apart(inputs: DSNInputs, others: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of `_others`, which lie in one piece."""
    of_tail, of_0, of_logit = _others(inputs)
    if others is None or not (of_tail is not None or of_0 is not None or of_logit is not None):
        return None, None, None
    first = 0 if of_tail is None else of_tail.numel()
    second = first + (0 if of_0 is None else of_0.numel())
    return (
        None if of_tail is None else others[:first].view(of_tail.shape),
        None if of_0 is None else others[first:second].view(of_0.shape),
        None if of_logit is None else others[second:].view(of_logit.shape),
    )


@_backward.register_fake
def _(grad: Tensor, grad_last: Any, grad_next: Any, borders: Tensor, inputs: DSNInputs, kind: int, *_: float) -> Any:
    tile = _tile(inputs, kind, following=grad_next is not None)
    return _gradients(inputs, _shapes_of_gradients(inputs, tile))


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_last: Tensor | None, grad_next: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    (borders,), inputs = kept(ctx, DSNInputs)
    grad = zeros(inputs.x, inputs.weight, ctx.rest[0]) if grad is None else grad
    run = _backward.within(ctx, (grad, grad_last, grad_next), inputs)
    grad_x, sums, others = run(grad, grad_last, grad_next, borders, inputs, *ctx.rest)
    grad_tail, grad_0, grad_logit = _apart(inputs, others)
    of_channels, (channels, taps) = sums.sum((1, 3)), inputs.weight.shape  # [k + 1, C]
    grad_weight = of_channels.as_strided((channels, taps), (1, channels))  # faster than its views
    grad_bias = of_channels.as_strided((channels,), (1,), taps * channels) if grad_logit is None else grad_logit
    return grad_x, grad_tail, grad_0, grad_weight, grad_bias, *(None,) * 6


_forward.register_autograd(_differentiate, setup_context=keep, inner=1)
