"""BPSN on the GPU, without K's quantiser: `kernel.cu` as a torch operator."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import gradients, kept, needed, operator
from sj_lang_neurons.bpsn.inputs import BPSNInputs, BPSNOutputs
from sj_lang_neurons.firing import Firing
from sj_lang_neurons.scan.cuda_layout import STEPS, Tile, keep, like, memory, sizes, whole, zeros

FILE = Path(__file__).with_name("kernel.cu")
LEARNED = ("gain_0", "threshold", "decay_f", "gain_f", "decay_b", "gain_b", "lateral")
SUMS = (*LEARNED, "denominator")  # rows of the kernel's `sums`


def schedule(columns: int, steps: int) -> Tile:
    """Chunks of 128 steps; of 256 with few columns; short sequences are one chunk."""
    if steps <= 4 * STEPS:
        return Tile(32, 1 if steps <= STEPS else 4, STEPS)
    return Tile(32, 16, STEPS) if columns >= 2048 or steps <= 16 * STEPS else Tile(16, 32, STEPS)


def bpsn_cupy(inputs: BPSNInputs, firing: Firing) -> BPSNOutputs:
    """The kernel of backend "cupy". Carried states may be None for zeros."""
    fused = firing.fused()
    out, after, ones, _ = _forward(inputs, *fused)
    carries, normalised = inputs.carries, inputs.normalised
    return BPSNOutputs(
        out if fused.kind else firing(out), after if carries else None, ones if carries and normalised else None
    )


@cache
def _macros(
    dtype: torch.dtype, past: bool, future: bool, lateral: bool, normalised: bool, softplus: bool, kind: int, tile: Tile
) -> cuda.Macros:
    sides = {"PAST": int(past), "FUTURE": int(future), "LATERAL": int(lateral)}
    variant = {"NORMALISED": int(normalised), "SOFTPLUS": int(softplus), "FIRE": kind}
    return cuda.macros_of(IO=cuda.IO[dtype], **sides, **variant, **tile.macros)


class _Call:
    """One call: what all its launches share."""

    def __init__(self, inputs: BPSNInputs, kind: int) -> None:
        self.x, self.lengths = inputs.x, inputs.lengths
        self.parameters = [whole(getattr(inputs, name)) for name in LEARNED]
        self.start = [whole(inputs.numerator), whole(inputs.denominator)]
        steps = self.x.shape[0]
        self.columns = math.prod(self.x.shape[1:])
        self.tile = schedule(self.columns, steps)
        self.chunks = self.tile.tiles(steps)
        self.decays = whole(inputs.decay_f), whole(inputs.decay_b)
        self.sizes = [self.chunks, *sizes(self.x)]
        present = (parameter is not None for parameter in (inputs.decay_f, inputs.decay_b, inputs.lateral))
        self.macros = _macros(self.x.dtype, *present, inputs.normalised, inputs.softplus, kind, self.tile)

    def launch(self, name: str, arguments: list[Any], *, chunks: bool = True) -> None:
        grid = self.tile.blocks(self.columns), self.chunks if chunks else 1
        block = self.tile.block if chunks else (self.tile.columns, 1)
        cuda.launch(FILE, name, self.macros, grid, block, arguments, self.x.device)

    def carries(self, added: Tensor, begin: Tensor | None, end: Tensor | None, *, backwards: bool) -> Tensor:
        """Phase 2: the state with which each chunk begins.

        The past is carried forwards in time and the future backwards; their adjoints are carried
        the other way.
        """
        ahead, back = reversed(self.decays) if backwards else self.decays
        carried = torch.zeros_like(added) if any(d is None for d in self.decays) else torch.empty_like(added)
        arguments = [added, carried, begin, end, ahead, back, int(backwards), self.lengths, *self.sizes]
        self.launch("bpsn_carries", arguments, chunks=False)
        return carried


@operator("sj_lang::bpsn_cuda")
def _forward(
    inputs: BPSNInputs, kind: int, alpha: float, lowest: float, margin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spikes or H - threshold; numerator, denominator after x, or empty; numerators at borders."""
    x, lengths = inputs.x, inputs.lengths
    call = _Call(inputs, kind)
    results = _results(inputs, kind, call)
    out, after, ones, borders = results
    carried = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_chunks", [*memory(x), *call.parameters, lengths, added, *call.sizes])
        carried = call.carries(added, call.start[0], None, backwards=False)
        results = out, after, ones, carried
    last = (after, ones) if inputs.carries else (None, None)
    arguments = [*memory(x), *call.parameters, *call.start, lengths, carried, *memory(out), *last]
    call.launch("bpsn", [*arguments, *call.sizes, alpha, lowest])
    return results


def _results(inputs: BPSNInputs, kind: int, call: _Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, g0, carries = inputs.x, inputs.gain_0, inputs.carries
    return (
        like(x, None if kind else g0.dtype),
        g0.new_empty(x.shape[1:] if carries else (0,)),
        g0.new_empty(x.shape[1:3] if carries and inputs.normalised else (0,)),
        g0.new_empty(2, call.chunks if call.chunks > 1 else 0, *x.shape[1:]),
    )


_forward.register_fake(lambda inputs, kind, *_: _results(inputs, kind, _Call(inputs, kind)))


@operator("sj_lang::bpsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_after: Tensor | None,
    grad_ones: Tensor | None,
    borders: Tensor,
    inputs: BPSNInputs,
    kind: int,
    alpha: float,
    lowest: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the numerator or empty, and `SUMS` of each chunk and column."""
    x, carries = inputs.x, inputs.carries
    call, firing = _Call(inputs, kind), (alpha, lowest, margin)
    grad_x, grad_numerator, sums = _gradients(inputs, call)
    end, ones = (whole(g) if carries else None for g in (grad_after, grad_ones))
    read = [*memory(x), *call.parameters, *call.start, inputs.lengths, borders if call.chunks > 1 else None]
    adjoints = None
    if call.chunks > 1:
        added = torch.empty_like(borders)
        call.launch("bpsn_backward_chunks", [*memory(grad), *read, added, *call.sizes, *firing])
        adjoints = call.carries(added, None, end, backwards=True)
    start = None if inputs.numerator is None else grad_numerator
    ones = ones if inputs.normalised else None
    arguments = [*memory(grad), end, ones, *read, adjoints, *memory(grad_x), start, sums]
    call.launch("bpsn_backward", [*arguments, *call.sizes, *firing])
    return grad_x, grad_numerator, sums


def _gradients(inputs: BPSNInputs, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    x, g0, numerator = inputs.x, inputs.gain_0, inputs.numerator
    start = g0.new_empty((0,) if numerator is None else numerator.shape)
    return like(x), start, g0.new_empty(len(SUMS), call.chunks, *sizes(x)[1:])


@_backward.register_fake
def _(grad: Tensor, after: Any, ones: Any, borders: Tensor, inputs: BPSNInputs, kind: int, *_: float) -> Any:
    return _gradients(inputs, _Call(inputs, kind))


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_after: Tensor | None, grad_ones: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    (borders,), inputs = kept(ctx, BPSNInputs)
    grad = zeros(inputs.x, inputs.gain_0, ctx.rest[0]) if grad is None else grad
    grad_x, grad_numerator, sums = _backward(grad, grad_after, grad_ones, borders, inputs, *ctx.rest)
    denominator = sums[-1].sum((0, 3)) if needed(ctx, BPSNInputs, "denominator") else None
    of_channels = dict(zip(LEARNED, sums[:-1].sum((1, 2, 4)).unbind(0), strict=True))
    return gradients(ctx, BPSNInputs, x=grad_x, numerator=grad_numerator, denominator=denominator, **of_channels)


_forward.register_autograd(_differentiate, setup_context=keep)
