"""The whole BPSN, but for K's quantiser, on the GPU: `kernel.cu` as a torch operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import operator
from sj_lang_neurons.bpsn.fired import firing
from sj_lang_neurons.scan.layout import STEPS, Tile, like, strides

FILE = Path(__file__).with_name("kernel.cu")
SUMS = ("g0", "threshold", "lf", "gf", "lb", "gb", "rho", "denominator")  # rows of the kernel's `sums`


def schedule(columns: int, steps: int) -> Tile:
    """Chunks of 128 steps; of 256 with few columns; short sequences are one chunk."""
    if steps <= 4 * STEPS:
        return Tile(32, 1 if steps <= STEPS else 4, STEPS)
    return Tile(32, 16, STEPS) if columns >= 2048 or steps <= 16 * STEPS else Tile(16, 32, STEPS)


class _Call:
    """One call: what all its launches share."""

    def __init__(
        self, x: Tensor, given: tuple[Tensor | None, ...], lengths: Tensor | None, normalised: bool, kind: int
    ) -> None:
        parameters, (numerator, denominator) = given[:7], given[7:]
        self.x, self.lengths = x, lengths
        self.parameters = [None if p is None else p.contiguous() for p in parameters]
        self.start = [None if s is None else s.contiguous() for s in (numerator, denominator)]
        _, _, lf, _, lb, _, rho = parameters
        steps, *step = x.shape
        self.columns = x[0].numel()
        self.tile = schedule(self.columns, steps)
        self.chunks = self.tile.tiles(steps)
        self.decays = self.parameters[2], self.parameters[4]
        self.sizes = [self.chunks, steps, *step]
        sides = {"PAST": int(lf is not None), "FUTURE": int(lb is not None)}
        own = {"LATERAL": int(rho is not None), "NORMALISED": int(normalised), "FIRE": kind}
        self.macros = {"IO": cuda.IO[x.dtype], **sides, **own, **self.tile.macros}
        self.wide = parameters[0]

    def launch(self, name: str, arguments: list[Any], *, chunks: bool = True) -> None:
        grid = self.tile.blocks(self.columns), self.chunks if chunks else 1
        block = self.tile.block if chunks else (self.tile.columns, 1)
        cuda.launch(FILE, name, self.macros, grid, block, arguments, self.x.device)

    def memory(self, *shape: int) -> Tensor:
        assert self.wide is not None
        return self.wide.new_empty(*shape, *self.x.shape[1:])

    def carries(self, added: Tensor, begin: Tensor | None, end: Tensor | None, *, backwards: bool) -> Tensor:
        """Phase 2. The side that goes with time is the past; of the adjoints, which go the other way, the future's."""
        ahead, back = reversed(self.decays) if backwards else self.decays
        carried = torch.zeros_like(added) if any(d is None for d in self.decays) else torch.empty_like(added)
        arguments = [added, carried, begin, end, ahead, back, int(backwards), self.lengths, *self.sizes]
        self.launch("bpsn_carries", arguments, chunks=False)
        return carried


@operator("sj_lang::bpsn_cuda")
def _forward(
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or H - threshold of x [T, B, C, S], the numerator after it, and those at the borders of chunks."""
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    out, after, borders = _results(x, g0, numerator, kind, call)
    carried = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_chunks", [x, *strides(x), *call.parameters, lengths, added, *call.sizes])
        borders = carried = call.carries(added, call.start[0], None, backwards=False)
    last = None if numerator is None else after
    arguments = [x, *strides(x), *call.parameters, *call.start, lengths, carried, out, *strides(out), last]
    call.launch("bpsn", [*arguments, *call.sizes, alpha])
    return out, after, borders


def _results(x: Tensor, g0: Tensor, numerator: Tensor | None, kind: int, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    after = g0.new_empty(0 if numerator is None else numerator.shape)
    return like(x, None if kind else g0.dtype), after, call.memory(2, call.chunks if call.chunks > 1 else 0)


@_forward.register_fake
def _(
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    return _results(x, g0, numerator, kind, call)


@operator("sj_lang::bpsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_after: Tensor,
    borders: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and numerator, and of all in `SUMS` before they are summed over chunks, batch and places."""
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    grad_x, grad_numerator, sums = _gradients(x, g0, numerator, call)
    end = None if numerator is None else grad_after.contiguous()
    inputs = [x, *strides(x), *call.parameters, *call.start, lengths, borders if call.chunks > 1 else None]
    adjoints = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_backward_chunks", [grad, *strides(grad), *inputs, added, *call.sizes, alpha])
        adjoints = call.carries(added, None, end, backwards=True)
    start = None if numerator is None else grad_numerator
    arguments = [grad, *strides(grad), end, *inputs, adjoints, grad_x, *strides(grad_x), start, sums]
    call.launch("bpsn_backward", [*arguments, *call.sizes, alpha])
    return grad_x, grad_numerator, sums


def _gradients(x: Tensor, g0: Tensor, numerator: Tensor | None, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    start = g0.new_empty(0 if numerator is None else numerator.shape)
    return like(x), start, call.memory(len(SUMS), call.chunks)


@_backward.register_fake
def _(
    grad: Tensor,
    grad_after: Tensor,
    borders: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    return _gradients(x, g0, numerator, call)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.normalised, ctx.kind, ctx.alpha = inputs
    ctx.save_for_backward(output[2], *tensors)


def _differentiate(ctx: Any, grad: Tensor, grad_after: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_numerator, sums = _backward(grad, grad_after, *ctx.saved_tensors, ctx.normalised, ctx.kind, ctx.alpha)
    of_channels = sums[:7].sum((1, 2, 4)).unbind(0)
    grad_denominator = sums[7].sum((0, 3)) if ctx.needs_input_grad[9] else None
    found = (grad_x, *of_channels, grad_numerator, grad_denominator)
    wanted = [g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)]
    return *wanted, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)

bpsn = firing(_forward)  # as `fired.bpsn`; x may also be float16 or bfloat16, of any strides
