"""BPSN on the GPU, without K's quantiser: `kernel.cu` as a torch operator."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.operators import kept, operator
from sj_lang_neurons.bpsn.inputs import BPSNInputs, BPSNOutputs
from sj_lang_neurons.firing import Firing
from sj_lang_neurons.scan.cuda_layout import STEPS, Tile, flat, keep, layout, like, sizes, strides, whole, zeros

FILE = Path(__file__).with_name("kernel.cu")
LEARNED = ("gain_0", "threshold", "decay_f", "gain_f", "decay_b", "gain_b", "lateral")
MOST_SEQUENCES = 8  # the weights are little beside so many
LEAST_BLOCKS = 264  # two for each multiprocessor of an H200


def schedule(columns: int, steps: int) -> Tile:
    """Chunks of 128 steps; of 256 with few columns; short sequences are one chunk."""
    if steps <= 4 * STEPS:
        return Tile(32, 1 if steps <= STEPS else 4, STEPS)
    return Tile(32, 16, STEPS) if columns >= 2048 or steps <= 16 * STEPS else Tile(16, 32, STEPS)


def bpsn_cupy(inputs: BPSNInputs, firing: Firing) -> BPSNOutputs:
    """The kernel of backend "cupy". Carried states may be None for zeros."""
    fused = firing.fused()
    out, after, ones, *_ = _forward(inputs, *fused)
    carries, normalised = inputs.carries, inputs.normalised
    return BPSNOutputs(
        out if fused.kind else firing(out), after if carries else None, ones if carries and normalised else None
    )


def sequences_of(blocks: int, batch: int) -> int:
    """How many sequences a block passes over, of so many blocks if it is one.

    The weights of P and Q are computed once for all, so more are better while blocks fill a GPU.
    """
    sequences = 1
    while sequences < MOST_SEQUENCES and 2 * sequences <= batch and blocks >= 2 * sequences * LEAST_BLOCKS:
        sequences *= 2
    return sequences


class _PlannedPass:
    """The launches of one pass, for all calls of one shape. layouts: x, and what else has strides.

    groups: in how many the sequences are; each has sums of its own.
    """

    def __init__(
        self, inputs: BPSNInputs, firing: Sequence[float], layouts: Sequence[Tensor], *, backwards: bool
    ) -> None:
        x = inputs.x
        steps, batch, channels, places = of_x = sizes(x)
        columns = batch * channels * places
        tile = schedule(columns, steps)
        self.chunks = chunks = tile.tiles(steps)
        present = (parameter is not None for parameter in (inputs.decay_f, inputs.decay_b, inputs.lateral))
        sides = dict(zip(("PAST", "FUTURE", "LATERAL"), map(int, present), strict=True))
        flags = {"NORMALISED": int(inputs.normalised), "SOFTPLUS": int(inputs.softplus), "FIRE": int(firing[0])}
        macros = cuda.macros_of(IO=cuda.IO[x.dtype], **sides, **flags, **tile.macros)
        self.one_sided = not (sides["PAST"] and sides["FUTURE"])

        def plan(name: str, grid: tuple[int, int], tensors: int, numbers: Sequence[int | float]) -> cuda.Plan:
            block = tile.block if name != "bpsn_carries" else (tile.columns, 1)
            return cuda.Plan(FILE, name, macros, grid, block, tensors, numbers, x.device)

        across = tile.blocks(channels * places)
        sequences = sequences_of(across * batch * chunks, batch)
        self.groups = -(-batch // sequences)
        grid, rest = (across * self.groups, chunks), [chunks, sequences, *of_x]
        layout = [stride for y in layouts for stride in strides(y)]
        if chunks > 1:
            if backwards:
                numbers = [*layout[:8], *rest, *firing[1:]]
                self.first = plan("bpsn_backward_chunks", grid, 14, numbers)
            else:
                self.first = plan("bpsn_chunks", (tile.blocks(columns), chunks), 10, [*layout[:4], chunks, *of_x])
            self.carries = plan("bpsn_carries", (tile.blocks(columns), 1), 7, [int(backwards), chunks, *of_x])
        if backwards:
            self.run = plan("bpsn_backward", grid, 20, [*layout, *rest, *firing[1:]])
        else:
            self.run = plan("bpsn", grid, 15, [*layout, *rest, *firing[1:3]])


def _planned(name: str, inputs: BPSNInputs, firing: Sequence[float], *others: Tensor) -> _PlannedPass:
    """others: what has strides beside x and the result."""
    x, present = inputs.x, (inputs.decay_f is not None, inputs.decay_b is not None, inputs.lateral is not None)
    key = (
        name,
        x.shape,
        x.stride(),
        x.dtype,
        x.device,
        *present,
        inputs.normalised,
        inputs.softplus,
        *firing,
        *(y.stride() for y in others),
    )
    planned: _PlannedPass | None = cuda.PLANS.get(key)
    if planned is None:
        backwards = bool(others)
        layouts = (*others, x, layout(x, None if backwards or firing[0] else inputs.gain_0.dtype))
        planned = _PlannedPass(inputs, firing, layouts, backwards=backwards)
        cuda.remember(key, planned)
    return planned


def _carried(planned: _PlannedPass, added: Tensor, ends: Sequence[Tensor | None], inputs: BPSNInputs) -> Tensor:
    """Phase 2: the state with which each chunk begins. ends: of both sides, and their decays.

    The past is carried forwards in time and the future backwards; their adjoints are carried the
    other way.
    """
    carried = torch.zeros_like(added) if planned.one_sided else torch.empty_like(added)
    planned.carries(added, carried, *ends, inputs.lengths)
    return carried


@operator("sj_lang::bpsn_cuda")
def _forward(
    inputs: BPSNInputs, kind: int, alpha: float, lowest: float, margin: float
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Spikes or H - threshold; if they are wanted, numerator and denominator after x; numerators at
    the borders of several chunks.
    """
    planned = _planned("bpsn", inputs, (kind, alpha, lowest))
    out, after, ones, borders = _results(inputs, kind, planned.chunks)
    x, *parameters = flat(inputs.x), *map(whole, inputs[1:8])
    numerator, denominator, lengths = whole(inputs.numerator), whole(inputs.denominator), inputs.lengths
    if borders is not None:
        added = torch.empty_like(borders)
        planned.first(x, *parameters, lengths, added)
        decays = parameters[2], parameters[4]
        borders = _carried(planned, added, (numerator, None, *decays), inputs)
    planned.run(x, *parameters, numerator, denominator, lengths, borders, flat(out), after, ones)
    return out, after, ones, borders


def _results(inputs: BPSNInputs, kind: int, chunks: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    x, g0, carries = inputs.x, inputs.gain_0, inputs.carries
    _, *step = x.shape
    return (
        like(x, None if kind else g0.dtype),
        g0.new_empty(step) if carries else None,
        g0.new_empty(step[:2]) if carries and inputs.normalised else None,
        g0.new_empty((2, chunks, *step)) if chunks > 1 else None,
    )


def _tiles(inputs: BPSNInputs) -> tuple[Tile, int]:
    x = inputs.x
    tile = schedule(math.prod(x.shape[1:]), x.shape[0])
    return tile, tile.tiles(x.shape[0])


_forward.register_fake(lambda inputs, kind, *_: _results(inputs, kind, _tiles(inputs)[1]))


@operator("sj_lang::bpsn_cuda_backward")
def _backward(
    grad: Tensor,
    grad_after: Tensor | None,
    grad_ones: Tensor | None,
    borders: Tensor | None,
    inputs: BPSNInputs,
    kind: int,
    alpha: float,
    lowest: float,
    margin: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of x; of the numerator and, by chunk and column, the denominator, if they are
    there; of `LEARNED` by chunk, group of sequences and place.
    """
    planned = _planned("bpsn_backward", inputs, (kind, alpha, lowest, margin), grad)
    grad_x, grad_numerator, grad_denominator, sums = results = _gradients(inputs, planned.chunks, planned.groups)
    x, *parameters = flat(inputs.x), *map(whole, inputs[1:8])
    numerator, denominator, lengths = whole(inputs.numerator), whole(inputs.denominator), inputs.lengths
    end, ones = (whole(grad_after), whole(grad_ones)) if inputs.carries else (None, None)
    adjoints, grad = None, flat(grad)
    borders = borders if planned.chunks > 1 else None
    read = (x, *parameters, numerator, denominator, lengths, borders)
    if borders is not None:
        added = torch.empty_like(borders)
        planned.first(grad, *read, added)
        adjoints = _carried(planned, added, (None, end, parameters[4], parameters[2]), inputs)
    ones = ones if inputs.normalised else None
    planned.run(grad, end, ones, *read, adjoints, flat(grad_x), grad_numerator, grad_denominator, sums)
    return results


def _gradients(inputs: BPSNInputs, chunks: int, groups: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    x, g0, numerator = inputs.x, inputs.gain_0, inputs.numerator
    _, batch, channels, places = sizes(x)
    return (
        like(x),
        None if numerator is None else g0.new_empty(numerator.shape),
        None if inputs.denominator is None else g0.new_empty((chunks, batch, channels, places)),
        g0.new_empty((len(LEARNED), chunks, groups, channels, places)),
    )


@_backward.register_fake
def _(grad: Tensor, after: Any, ones: Any, borders: Any, inputs: BPSNInputs, kind: int, *_: float) -> Any:
    tile, chunks = _tiles(inputs)
    batch, channels, places = sizes(inputs.x)[1:]
    sequences = sequences_of(tile.blocks(channels * places) * batch * chunks, batch)
    return _gradients(inputs, chunks, -(-batch // sequences))


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_after: Tensor | None, grad_ones: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    (borders,), inputs = kept(ctx, BPSNInputs)
    grad = zeros(inputs.x, inputs.gain_0, ctx.rest[0]) if grad is None else grad
    run = _backward.within(ctx, (grad, grad_after, grad_ones), inputs)
    grad_x, grad_numerator, grad_denominator, sums = run(grad, grad_after, grad_ones, borders, inputs, *ctx.rest)
    grad_numerator = None if inputs.numerator is None else grad_numerator
    grad_denominator = None if inputs.denominator is None else grad_denominator.sum((0, 3))
    of_learned = sums.sum((1, 2, 4)).unbind(0)
    grads = [None if value is None else grad for value, grad in zip(inputs[1:8], of_learned, strict=True)]
    return grad_x, *grads, grad_numerator, grad_denominator, *(None,) * 8


_forward.register_autograd(_differentiate, setup_context=keep, inner=1)
