"""The whole BPSN, but for K's quantiser, on the GPU: `kernel.cu` as a torch operator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang import cuda
from sj_lang.operators import operator
from sj_lang_neurons.bpsn.fired import firing
from sj_lang_neurons.scan.cuda_layout import STEPS, Tile, like, memory, sizes, whole

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
        self.x, self.lengths = x, lengths
        self.parameters, self.start = [whole(p) for p in given[:7]], [whole(s) for s in given[7:]]
        _, _, lf, _, lb, _, rho = self.parameters
        steps = x.shape[0]
        self.columns = math.prod(x.shape[1:])
        self.tile = schedule(self.columns, steps)
        self.chunks = self.tile.tiles(steps)
        self.decays = lf, lb
        self.sizes = [self.chunks, *sizes(x)]
        sides = {"PAST": int(lf is not None), "FUTURE": int(lb is not None)}
        own = {"LATERAL": int(rho is not None), "NORMALISED": int(normalised), "FIRE": kind}
        self.macros = {"IO": cuda.IO[x.dtype], **sides, **own, **self.tile.macros}

    def launch(self, name: str, arguments: list[Any], *, chunks: bool = True) -> None:
        grid = self.tile.blocks(self.columns), self.chunks if chunks else 1
        block = self.tile.block if chunks else (self.tile.columns, 1)
        cuda.launch(FILE, name, self.macros, grid, block, arguments, self.x.device)

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
    threshold: Tensor | None,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    carries: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes or H - threshold of x [T, B, C, ...]; if it carries a state, which the past alone does, numerator and
    denominator after it (else empty); numerators at the borders of chunks."""
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    results = _results(x, g0, normalised, carries, kind, call)
    out, after, ones, borders = results
    carried = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_chunks", [*memory(x), *call.parameters, lengths, added, *call.sizes])
        carried = call.carries(added, call.start[0], None, backwards=False)
        results = out, after, ones, carried
    last = (after, ones) if carries else (None, None)
    arguments = [*memory(x), *call.parameters, *call.start, lengths, carried, *memory(out), *last]
    call.launch("bpsn", [*arguments, *call.sizes, alpha])
    return results


def _results(
    x: Tensor, g0: Tensor, normalised: bool, carries: bool, kind: int, call: _Call
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        like(x, None if kind else g0.dtype),
        g0.new_empty(x.shape[1:] if carries else (0,)),
        g0.new_empty(x.shape[1:3] if carries and normalised else (0,)),
        g0.new_empty(2, call.chunks if call.chunks > 1 else 0, *x.shape[1:]),
    )


@_forward.register_fake
def _(
    x: Tensor,
    g0: Tensor,
    threshold: Tensor | None,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    carries: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    return _results(x, g0, normalised, carries, kind, call)


@operator("sj_lang::bpsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_after: Tensor | None,
    grad_ones: Tensor | None,
    borders: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor | None,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    carries: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and numerator (empty where there is none), and of all in `SUMS` before they are summed over
    chunks, batch and places."""
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    grad_x, grad_numerator, sums = _gradients(x, g0, numerator, call)
    end, ones = (whole(g) if carries else None for g in (grad_after, grad_ones))
    inputs = [*memory(x), *call.parameters, *call.start, lengths, borders if call.chunks > 1 else None]
    adjoints = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_backward_chunks", [*memory(grad), *inputs, added, *call.sizes, alpha])
        adjoints = call.carries(added, None, end, backwards=True)
    start = None if numerator is None else grad_numerator
    arguments = [*memory(grad), end, ones if normalised else None, *inputs, adjoints, *memory(grad_x), start, sums]
    call.launch("bpsn_backward", [*arguments, *call.sizes, alpha])
    return grad_x, grad_numerator, sums


def _gradients(x: Tensor, g0: Tensor, numerator: Tensor | None, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    start = g0.new_empty((0,) if numerator is None else numerator.shape)
    return like(x), start, g0.new_empty(len(SUMS), call.chunks, *sizes(x)[1:])


@_backward.register_fake
def _(
    grad: Tensor,
    grad_after: Tensor | None,
    grad_ones: Tensor | None,
    borders: Tensor,
    x: Tensor,
    g0: Tensor,
    threshold: Tensor | None,
    lf: Tensor | None,
    gf: Tensor | None,
    lb: Tensor | None,
    gb: Tensor | None,
    rho: Tensor | None,
    numerator: Tensor | None,
    denominator: Tensor | None,
    lengths: Tensor | None,
    normalised: bool,
    carries: bool,
    kind: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(x, (g0, threshold, lf, gf, lb, gb, rho, numerator, denominator), lengths, normalised, kind)
    return _gradients(x, g0, numerator, call)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, normalised, carries, kind, alpha = inputs
    ctx.numbers = normalised, carries, kind, alpha
    ctx.save_for_backward(output[3], *tensors)
    ctx.set_materialize_grads(False)  # a zero is a launch


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_after: Tensor | None, grad_ones: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    _, x, g0, *_ = saved = ctx.saved_tensors
    if grad is None:
        grad = x.new_zeros((), dtype=x.dtype if ctx.numbers[2] else g0.dtype).expand(x.shape)
    grad_x, grad_numerator, sums = _backward(grad, grad_after, grad_ones, *saved, *ctx.numbers)
    of_channels = sums[:7].sum((1, 2, 4))
    grad_denominator = sums[7].sum((0, 3)) if ctx.needs_input_grad[9] else None
    found = (grad_x, *of_channels.unbind(0), grad_numerator, grad_denominator)
    wanted = [g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)]
    return *wanted, *(None,) * 5


_forward.register_autograd(_differentiate, setup_context=_keep)

_fused = firing(_forward)


def bpsn(*given: Any, surrogate: nn.Module | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `fired.bpsn`; x may also be float16 or bfloat16, of any strides, and states that it carries may be None, which
    is zeros."""
    out, after, ones, _ = _fused(*given, surrogate)
    *_, normalised, carries = given
    return out, after if carries else None, ones if carries and normalised else None
