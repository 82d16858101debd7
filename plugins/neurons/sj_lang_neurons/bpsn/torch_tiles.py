"""One call of the potential, cut into independent tiles of columns, and each into blocks of steps.

A block's arrays stay in the cache, and the next block and the next tile reuse them: traffic and
fresh memory cost more than arithmetic.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sj_lang_neurons.bpsn.inputs import BPSNTerms
from sj_lang_neurons.bpsn.torch_weights import Leak, fill_tables
from sj_lang_neurons.scan.torch_blocks import block_rows, pieces
from sj_lang_neurons.scan.torch_constant import constant_scan

BLOCK = 262_144  # elements
COLUMNS = 32_768


@dataclass(frozen=True)
class Side:
    """A direction of a tile. decay, gain [C, 1]; late: the future; row: the decay of each column.

    tables: D, inverse, slope (None: not needed) [reach + 1, C, 1] of `weights.fill_tables`; for the
    future backwards.
    """

    decay: Tensor
    gain: Tensor
    late: bool
    row: Tensor
    tables: tuple[Tensor, Tensor, Tensor | None]

    def take(self, rows: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Some rows of each table."""
        D, inverse, slope = self.tables
        return rows(D), rows(inverse), None if slope is None else rows(slope)


@dataclass(frozen=True)
class Span:
    """Steps with their leaks, one for each side, and the blocks that they are cut into."""

    steps: slice
    leaks: list[Leak]
    blocks: list[slice]

    def of(self, weight: Tensor, t: slice) -> Tensor:
        """The rows of a weight for a block; one row stands for all steps."""
        start = self.steps.start
        return weight if len(weight) == 1 else weight[t.start - start : t.stop - start]


class BPSNTile:
    """Some sequences and channels of a call: `BPSNTerms`, but parameters [C, 1], d0 [B, C, 1].

    d0: the denominator. rows: the steps of a block, the same in all tiles of a call, as `memory`
    holds blocks of the widest. reach: the n from which D(n) does not change any more, or T. Rows of
    numerators: of the past, row t holds that before step t, and row T the last; of the future, row
    t + 1 holds that after step t, and row 0 the last. So step t enters row t + 1, or t.
    """

    def __init__(self, terms: BPSNTerms, sides: list[Side], reach: int, rows: int, memory: list[Tensor]) -> None:
        self.rows, self.sides, self.reach = rows, sides, reach
        self.g0, self.threshold, self.rho, self.normalised = terms.g0, terms.threshold, terms.rho, terms.normalised
        self.x, self.numerator, self.d0, self.lengths = terms.x, terms.numerator, terms.denominator, terms.lengths
        x = self.x
        width = x[0].numel()
        whole, *blocks = (m[: m.numel() // width * width].view(-1, *x.shape[1:]) for m in memory)
        self.whole, self.scratch = whole[: len(x) + 1], blocks
        self.batch = torch.arange(x.shape[1], device=x.device)

    def scan(self, side: Side, u: Tensor, out: Tensor, *, reverse: bool) -> None:
        """h_t = decay h_{t-1} + u_t over [R, B, C, S]; see `constant_scan`."""
        constant_scan(u.flatten(1), side.row[: u[0].numel()], out.flatten(1), reverse=reverse)

    def keep_last(self, P: Tensor, t: slice, after: Tensor) -> None:
        """Take the last numerator of the sequences that end in a block from its rows P."""
        if self.lengths is None:
            after.copy_(P[t.stop - t.start])
            return
        ends = (self.lengths > t.start) & (self.lengths <= t.stop)
        rows = (self.lengths - t.start).clamp(0, t.stop - t.start)
        after.copy_(torch.where(ends[:, None, None], P[rows, self.batch], after))

    def enter_last(self, A: Tensor, t: slice, grad: Tensor) -> None:
        """Add the last numerator's gradient to the adjoint A of sequences that end in a block."""
        steps, rows = len(self.x), t.stop - t.start
        if self.lengths is None:
            if t.stop == steps:
                A[rows] += grad
            return
        ends = (self.lengths >= t.start) & (self.lengths < (steps + 1 if t.stop == steps else t.stop))
        A[(self.lengths - t.start).clamp(0, rows), self.batch] += torch.where(ends[:, None, None], grad, 0)

    def spans(self, *, backwards: bool = False) -> Iterator[Span]:
        """Spans of steps, in or against order; a long one, with leaks of a row, if no D changes."""
        steps, batch, channels = self.x.shape[:3]
        late = any(side.late for side in self.sides)
        first = self.reach if any(not side.late for side in self.sides) else 0
        last = steps if not late or self.reach == 0 else self._shortest(first) - self.reach
        per_sequence = self.d0 is not None or (late and self.lengths is not None)
        rows = max(1, BLOCK // (channels * (batch if per_sequence else 1)))
        cuts = sorted({0, min(first, steps), min(max(last, 0), steps), steps})
        parts = [
            t
            for begin, stop in pairwise(cuts)
            for t in pieces(begin, stop, stop if begin >= first and stop <= last else rows)
        ]
        for t in reversed(parts) if backwards else parts:
            settled = {True: t.stop <= last, False: t.start >= first}
            leaks = [self._leak(side, t, settled=settled[side.late]) for side in self.sides]
            blocks = self.blocks(t.start, t.stop)
            yield Span(t, leaks, blocks[::-1] if backwards else blocks)

    def blocks(self, start: int, stop: int) -> list[slice]:
        """Steps start to stop in pieces of at most `rows`."""
        return pieces(start, stop, self.rows)

    def powers(self, t: slice) -> tuple[Tensor, Tensor]:
        """The past's lambda^n and its derivative, [R, 1, C, 1]."""
        n = torch.arange(t.start, t.stop, device=self.x.device, dtype=self.x.dtype).view(-1, 1, 1, 1)
        decay = self.sides[0].decay
        power = (n * decay.log()).clamp(min=-80).exp()  # lower ones are denormal, and slow
        return power, n * power / decay

    def _shortest(self, first: int) -> int:
        """The length of the shortest sequence, if it can matter."""
        return len(self.x) if self.lengths is None or first >= len(self.x) else int(self.lengths.min())

    def _leak(self, side: Side, t: slice, *, settled: bool) -> Leak:
        steps, there = len(self.x), None
        ones = self.x.new_ones(t.stop - t.start, 1, 1, 1)
        if settled:
            rows = slice(0, 1) if side.late else slice(self.reach, None)
        elif not side.late:
            rows = t
            if t.start == 0:
                there, ones[0] = ones, 0
        elif self.lengths is None:
            rows = slice(self.reach - (steps - 1 - t.start), self.reach - (steps - 1 - t.stop))
            if t.stop == steps:
                there, ones[-1] = ones, 0
        else:
            after = self.lengths - 1 - torch.arange(t.start, t.stop, device=self.x.device)[:, None]
            n = after.clamp(0, self.reach)  # [R, B]
            D, inverse, slope = side.take(lambda table: table[self.reach - n])
            return Leak(side.gain, D, inverse, slope, (n > 0).to(D.dtype)[..., None, None])
        D, inverse, slope = side.take(lambda table: table[rows].unsqueeze(1))
        if self.d0 is not None and not side.late:
            power, growth = self.powers(t)
            D, slope = D + power * self.d0, None if slope is None else slope + growth * self.d0
            inverse = (D > 0) / D.clamp(min=0.5)
            there = None if there is None else (D > 0).to(D.dtype)
        return Leak(side.gain, D, inverse, slope, there)


def tiles(
    terms: BPSNTerms, *, arrays: int, slopes: bool, exact_start: bool = False
) -> Iterator[tuple[BPSNTile, slice, slice]]:
    """The tiles of a call with their sequences and channels; each is good until the next one.

    arrays: how many scratch arrays of a block. slopes: with dD/dlambda. exact_start: the
    denominator needs a gradient.
    """
    x, g0, threshold, lf, gf, lb, gb, rho, numerator, denominator, lengths, normalised = terms
    on_cpu = x.device.type == "cpu"
    if denominator is not None and on_cpu and not exact_start and not denominator.any():
        denominator = None
    present = [(d, g, late) for d, g, late in ((lf, gf, False), (lb, gb, True)) if d is not None and g is not None]
    steps, batch, channels, rest = x.shape
    if not x.numel():
        return
    c_size = _even(channels, max(1, COLUMNS // rest)) if on_cpu else channels
    b_size = _even(batch, max(1, COLUMNS // (channels * rest))) if on_cpu else batch
    width = b_size * c_size * rest
    rows = block_rows(x[:, :b_size, :c_size], BLOCK)
    memory = [x.new_empty((steps + 1) * width), *x.new_empty(arrays, (rows + 1) * width)]
    begins_at_0 = on_cpu and denominator is None
    reach = 0 if not normalised else _reach([d for d, _, _ in present], x) if begins_at_0 else steps
    tables = x.new_empty(len(present), 3, (reach + 1) * c_size)
    for c in pieces(0, channels, c_size):
        sides = _sides(present, c, b_size, rest, reach, tables, slopes)
        for b in pieces(0, batch, b_size):
            part = terms._replace(
                x=x[:, b, c],
                g0=g0[c, None],
                threshold=threshold[c, None],
                rho=None if rho is None else rho[c, None],
                numerator=None if numerator is None else numerator[b, c],
                denominator=None if denominator is None else denominator[b, c, None],
                lengths=None if lengths is None else lengths[b],
            )
            yield BPSNTile(part, sides, reach, rows, memory), b, c


def _sides(
    present: list[tuple[Tensor, Tensor, bool]],
    c: slice,
    batch: int,
    rest: int,
    reach: int,
    memory: Tensor,
    slopes: bool,
) -> list[Side]:
    sides = []
    for (decay, gain, late), side_memory in zip(present, memory, strict=True):
        decay, gain = decay[c, None], gain[c, None]
        D, inverse, slope = side_memory[:, : (reach + 1) * len(decay)].view(3, reach + 1, -1, 1)
        tables = (D, inverse, slope if slopes else None)
        fill_tables(*tables, decay, backwards=late)
        sides.append(Side(decay, gain, late, decay.expand(batch, -1, rest).flatten(), tables))
    return sides


def _even(size: int, limit: int) -> int:
    """The size of equal parts, none above the limit."""
    return -(-size // -(-size // min(limit, size)))


def _reach(decays: list[Tensor], x: Tensor) -> int:
    """The n from which D(n) does not change any more, in its last bit."""
    slowest = max(float(decay.max()) for decay in decays)
    if not 0 < slowest < 1:
        return len(x)
    return min(len(x), 1 + math.ceil(math.log(torch.finfo(x.dtype).eps / (8 * len(x))) / math.log(slowest)))
