"""The linear recurrence over the rows of one block, small enough to stay in the cache. No autograd: buffers in, out.

Two ways, chosen by shape: with many channels a loop over the rows; with few, where a row costs less than the call that
handles it, chunks side by side in two passes. The first begins at zero in each chunk and gives what the chunk adds, U,
and the product of its decays, P. The states at the borders are the recurrence c' = P c + U, and from them the second
pass begins.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = 2048  # channels from which on the loop is faster
CHUNK = 8  # rows
FEW = 32  # rows up to which the loop is faster


def block_rows(x: Tensor, elements: int) -> int:
    """Rows of a block of x [T, N] of about so many elements, at least 1; all rows where there is no cache to spare."""
    steps, width = x.shape
    return max(1, min(steps, elements // max(1, width))) if x.device.type == "cpu" else steps


def chunked_rows(rows: int, width: int) -> int:
    """How many of the rows are done in chunks: 0, or all that fill chunks."""
    return 0 if width >= WIDE or rows < FEW else rows // CHUNK * CHUNK


def scan(a: Tensor, u: Tensor, h: Tensor, out: Tensor, *, reverse: bool = False) -> Tensor:
    """Write h_t = a_t h_{t-1} + u_t to `out`; returns its last row (the first in reverse), a view.

    a [R, N] or [1, N], u and out [R, N], h [N], rows contiguous. `out` may be `u`.
    """
    rows = len(u)
    cut = chunked_rows(*u.shape)
    if not cut:
        return _loop(a, u, h, out, reverse)
    # The rows that fill no chunk come last: at the end, or at the start in reverse.
    main, rest = (slice(rows - cut, rows), slice(0, rows - cut)) if reverse else (slice(0, cut), slice(cut, rows))
    h = _chunks(a if len(a) == 1 else a[main], u[main], h, out[main], reverse)
    return _loop(a if len(a) == 1 else a[rest], u[rest], h, out[rest], reverse) if cut < rows else h


def _loop(a: Tensor, u: Tensor, h: Tensor, out: Tensor, reverse: bool) -> Tensor:
    rows = (x.unbind(0)[:: -1 if reverse else 1] for x in (a.expand_as(u), u, out))
    for a_t, u_t, o in zip(*rows, strict=True):
        h = torch.addcmul(u_t, a_t, h, out=o)
    return h


def _chunks(a: Tensor, u: Tensor, h: Tensor, out: Tensor, reverse: bool) -> Tensor:
    order = -1 if reverse else 1
    u_l, o_l = (x.view(-1, CHUNK, u.shape[1]).unbind(1)[::order] for x in (u, out))
    a_l = (a,) * CHUNK if len(a) == 1 else a.view(-1, CHUNK, a.shape[1]).unbind(1)[::order]
    tiny = torch.finfo(a.dtype).tiny

    U, P = (x.clone(memory_format=torch.contiguous_format) for x in (u_l[0], a_l[0]))
    for a_i, u_i in zip(a_l[1:], u_l[1:], strict=True):
        torch.addcmul(u_i, a_i, U, out=U)
        torch.hardshrink(P.mul_(a_i), tiny, out=P)  # arithmetic on numbers too small to be normal is slow

    state = torch.empty_like(U)
    first, after, before = (-1, slice(None, -1), slice(1, None)) if reverse else (0, slice(1, None), slice(None, -1))
    state[first] = h
    if len(state) > 1:
        scan(P if len(P) == 1 else P[before], U[before], h, state[after], reverse=reverse)
    for a_i, u_i, o in zip(a_l, u_l, o_l, strict=True):
        state = torch.addcmul(u_i, a_i, state, out=o)
    return out[0 if reverse else -1]
