"""The linear recurrence over the rows of one block, small enough to stay in the cache. No autograd: buffers in, out.

Two ways, chosen by shape: with many channels a loop over the rows; with few, where a row costs less than the call that
handles it, chunks side by side. There, with P_l the product of the decays of a chunk up to row l and U_l its
recurrence begun at zero, h_l = U_l + P_l c with c the state at the chunk's border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WIDE = 2048  # channels from which on the loop is faster


def block_rows(x: Tensor, elements: int) -> int:
    """Rows of a block of x [T, N] of about so many elements, at least 1; all rows where there is no cache to spare."""
    steps, width = x.shape
    return max(1, min(steps, elements // max(1, width))) if x.device.type == "cpu" else steps


def chunk_length(rows: int, width: int) -> int:
    """Rows of a chunk; 0: do not cut. Of 2 L + R / L calls per block, L = sqrt(R / 2) makes the fewest."""
    return 0 if width >= WIDE or rows < 8 else math.isqrt(rows // 2)


def scan(a: Tensor, u: Tensor, h: Tensor, out: Tensor, *, reverse: bool = False) -> Tensor:
    """Write h_t = a_t h_{t-1} + u_t to `out`; returns its last row (the first in reverse), a view.

    a [R, N] or [1, N], u and out [R, N], h [N]. `out` may be `u`.
    """
    rows, width = u.shape
    length = chunk_length(rows, width)
    cut = rows // length * length if length else 0
    if not cut:
        return _loop(a, u, h, out, reverse)
    # The rows that fill no chunk come last: at the end, or at the start in reverse.
    main, rest = (slice(rows - cut, rows), slice(0, rows - cut)) if reverse else (slice(0, cut), slice(cut, rows))
    h = _chunks(a if len(a) == 1 else a[main], u[main], h, out[main], length, reverse)
    return _loop(a if len(a) == 1 else a[rest], u[rest], h, out[rest], reverse) if cut < rows else h


def _loop(a: Tensor, u: Tensor, h: Tensor, out: Tensor, reverse: bool) -> Tensor:
    rows = (x.unbind(0)[:: -1 if reverse else 1] for x in (a.expand_as(u), u, out))
    for a_t, u_t, o in zip(*rows, strict=True):
        h = torch.addcmul(u_t, a_t, h, out=o)
    return h


def _chunks(a: Tensor, u: Tensor, h: Tensor, out: Tensor, length: int, reverse: bool) -> Tensor:
    width = u.shape[1]
    order = -1 if reverse else 1
    chunks = out.view(-1, length, width)
    u_l = u.view(-1, length, width).unbind(1)[::order]
    o_l = chunks.unbind(1)[::order]
    a_l = (a,) * length if len(a) == 1 else a.view(-1, length, width).unbind(1)[::order]

    o_l[0].copy_(u_l[0])
    for i in range(1, length):
        torch.addcmul(u_l[i], a_l[i], o_l[i - 1], out=o_l[i])
    products = _products(a_l, order)

    borders = torch.empty_like(u_l[0])
    states = borders.unbind(0)[::order]
    states[0].copy_(h)
    ends = o_l[-1].unbind(0)[::order]
    whole = products[:, 0 if reverse else -1]
    shrink = whole.expand_as(borders).unbind(0)[::order]
    for i in range(1, len(states)):
        torch.addcmul(ends[i - 1], shrink[i - 1], states[i - 1], out=states[i])
    chunks.addcmul_(products, borders.unsqueeze(1))
    return out[0 if reverse else -1]


def _products(a_l: Sequence[Tensor], order: int) -> Tensor:
    """P_l of each chunk, in the order of time. Too small for a normal number is 0: arithmetic on such is slow."""
    first = a_l[0]
    tiny = torch.finfo(first.dtype).tiny
    products = first.new_empty(first.shape[0], len(a_l), first.shape[1])
    p_l = products.unbind(1)[::order]
    p_l[0].copy_(first)
    for i in range(1, len(a_l)):
        torch.hardshrink(torch.mul(p_l[i - 1], a_l[i], out=p_l[i]), tiny, out=p_l[i])
    return products
