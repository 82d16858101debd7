"""The rows of one block of h_t = h_{t-1} + w_t (x_t - h_{t-1}), DSN's recurrence. No autograd: buffers in, out.

The same as a linear recurrence of decay 1 - w, but that number is never formed: for small w it keeps few of its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sj_lang_neurons.scan.rows import chunk_length


def leak(x: Tensor, w: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Write h_t to `out`; returns its last row, a view. x, w, out [R, N], h [N]."""
    length = chunk_length(*x.shape)
    cut = len(x) // length * length if length else 0
    if cut:
        h = _chunks(x[:cut], w[:cut], h, out[:cut], length)
    for x_t, w_t, o in zip(x[cut:].unbind(0), w[cut:].unbind(0), out[cut:].unbind(0), strict=True):
        h = torch.lerp(h, x_t, w_t, out=o)
    return h


def _chunks(x: Tensor, w: Tensor, h: Tensor, out: Tensor, length: int) -> Tensor:
    """Chunks side by side: U_l begun at zero and W_l, the gain of the chunk up to l; then h_l = c + (U_l - W_l c)."""
    width = x.shape[1]
    cut = (-1, length, width)
    gains = torch.empty_like(out).view(cut)
    x_l, w_l, U, W = (rows.unbind(1) for rows in (x.view(cut), w.view(cut), out.view(cut), gains))
    ones = torch.ones_like(U[0])
    torch.mul(x_l[0], w_l[0], out=U[0])
    W[0].copy_(w_l[0])
    for i in range(1, length):
        torch.lerp(U[i - 1], x_l[i], w_l[i], out=U[i])
        torch.lerp(W[i - 1], ones, w_l[i], out=W[i])
    borders = torch.empty_like(U[0])
    c = borders.unbind(0)
    c[0].copy_(h)
    for i, (u_end, w_end) in enumerate(zip(U[-1].unbind(0)[:-1], W[-1].unbind(0)[:-1], strict=True)):
        torch.addcmul(u_end, w_end, c[i], value=-1, out=c[i + 1]).add_(c[i])
    out.view(cut).addcmul_(gains, borders.unsqueeze(1), value=-1).add_(borders.unsqueeze(1))
    return out[-1]
