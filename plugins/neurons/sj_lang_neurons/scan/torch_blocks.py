"""The linear recurrence over the rows of one block, small enough for the cache. No autograd.

With many channels a loop over the rows; with few, where a row costs less than its call, chunks side
by side in two passes. The first begins at zero in each chunk and gives what it adds, U, and the
product of its decays, P. The second begins at the borders' states, the recurrence c' = P c + U.
"""

from functools import cached_property

import torch
from torch import Tensor

WIDE = 1024  # channels from which on the loop is faster
CHUNK = 8  # rows
FEW = 32  # rows up to which the loop is faster


class Rows:
    """Rows [R, N] and views of them, each made once: a view costs as much as a short row."""

    def __init__(self, all: Tensor) -> None:
        self.all = all

    @cached_property
    def each(self) -> tuple[Tensor, ...]:
        return self.all.unbind(0)

    @cached_property
    def cut(self) -> int:
        """How many rows are done in chunks: 0, or all that fill chunks."""
        rows, width = self.all.shape
        return 0 if width >= WIDE or rows < FEW else rows // CHUNK * CHUNK

    @cached_property
    def lanes(self) -> tuple[Tensor, ...]:
        """First rows of all chunks, second rows, ..., [chunks, N] each."""
        return self.all[: self.cut].view(self.cut // CHUNK, CHUNK, self.all.shape[1]).unbind(1)

    @cached_property
    def borders(self) -> "Borders":
        return Borders(self.all.new_empty(3, self.cut // CHUNK + 1, self.all.shape[1]))


class Borders:
    """What chunks add, their factor [chunks, N], and the states around them [chunks + 1, N]."""

    def __init__(self, memory: Tensor) -> None:
        self.added, self.factor = (Rows(m[:-1]) for m in memory[:2])
        self.states = memory[2]
        self.before, self.after = Rows(self.states[:-1]), Rows(self.states[1:])


def block_rows(x: Tensor, elements: int) -> int:
    """Rows of a block of x [T, ...] of about so many elements, 1 or more; all if not on a CPU."""
    steps, width = len(x), x.shape[1:].numel()
    return max(1, min(steps, elements // max(1, width))) if x.device.type == "cpu" else steps


def pieces(start: int, stop: int, size: int) -> list[slice]:
    """From start to stop in pieces of a size, the last one what is left."""
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


def scan(a: Rows, u: Rows, h: Tensor, out: Rows, *, reverse: bool = False) -> Tensor:
    """Write h_t = a_t h_{t-1} + u_t to `out`; returns its last row (the first in reverse), a view.

    a [R, N] or [1, N], u and out [R, N], h [N], rows contiguous. `out` may be `u`.
    """
    cut, constant, rest, lanes = out.cut, len(a.all) == 1, [], []
    if cut < len(u.all):
        each = a.each * (len(u.all) - cut) if constant else a.each[cut:]
        rest = list(zip(each, u.each[cut:], out.each[cut:], strict=True))
    if cut:
        lanes = list(zip((a.all,) * CHUNK if constant else a.lanes, u.lanes, out.lanes, strict=True))
    if reverse:
        return _chunks(lanes[::-1], _loop(rest[::-1], h), out, reverse) if cut else _loop(rest[::-1], h)
    return _loop(rest, _chunks(lanes, h, out, reverse) if cut else h)


Steps = list[tuple[Tensor, Tensor, Tensor]]  # a, u, out of one step after the other


def _loop(steps: Steps, h: Tensor) -> Tensor:
    for a_t, u_t, o in steps:
        h = torch.addcmul(u_t, a_t, h, out=o)
    return h


def _chunks(lanes: Steps, h: Tensor, out: Rows, reverse: bool) -> Tensor:
    """The lanes are steps of all chunks at once."""
    borders, tiny = out.borders, torch.finfo(h.dtype).tiny
    first_a, first_u, _ = lanes[0]
    U, P = borders.added.all.copy_(first_u), borders.factor.all[: len(first_a)].copy_(first_a)
    for a_i, u_i, _ in lanes[1:]:
        torch.addcmul(u_i, a_i, U, out=U)
        torch.hardshrink(P.mul_(a_i), tiny, out=P)  # subnormal numbers are slow

    start, state, end = (
        (-1, borders.after, borders.before) if reverse else (0, borders.before, borders.after)
    )  # states before and after the chunks, in the order of the scan
    borders.states[start] = h
    scan(borders.factor if len(P) > 1 else Rows(P), borders.added, h, end, reverse=reverse)
    h = state.all
    for a_i, u_i, o in lanes:
        h = torch.addcmul(u_i, a_i, h, out=o)
    return out.each[0 if reverse else out.cut - 1]
