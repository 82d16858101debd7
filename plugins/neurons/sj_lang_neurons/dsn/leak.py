"""The rows of one block of h_t = h_{t-1} + w_t (x_t - h_{t-1}), DSN's recurrence. No autograd: buffers in, out.

The same as a linear recurrence of decay 1 - w, but that number is never formed: for small w it keeps few of its digits.
A chunk of steps acts as one step does: its gain is W, and its input M = U / W, a mean of its inputs, where U is the
potential that it ends with when it begins at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sj_lang_neurons.scan.torch_blocks import Rows


def leak(x: Rows, w: Rows, h: Tensor, out: Rows) -> Tensor:
    """Write h_t to `out`; returns its last row, a view. x, w, out [R, N], h [N], rows contiguous."""
    cut = out.cut
    if cut:
        h = _chunks(x, w, h, out)
        if cut == len(out.all):
            return h
    for x_t, w_t, o in zip(x.each[cut:], w.each[cut:], out.each[cut:], strict=True):
        h = torch.lerp(h, x_t, w_t, out=o)
    return h


def _chunks(x: Rows, w: Rows, h: Tensor, out: Rows) -> Tensor:
    """Chunks side by side, twice: from zero, for U and W; then from their borders."""
    borders, one = out.borders, h.new_ones(())
    U, W = borders.added.all, borders.factor.all
    torch.mul(x.lanes[0], w.lanes[0], out=U)
    W.copy_(w.lanes[0])
    for x_i, w_i in zip(x.lanes[1:], w.lanes[1:], strict=True):
        torch.lerp(U, x_i, w_i, out=U)
        torch.lerp(W, one, w_i, out=W)
    U.div_(W.clamp(min=torch.finfo(W.dtype).tiny))  # no step with a gain: U is 0, and so is M
    borders.states[0] = h
    leak(borders.added, borders.factor, h, borders.after)
    h = borders.before.all
    for x_i, w_i, o in zip(x.lanes, w.lanes, out.lanes, strict=True):
        h = torch.lerp(h, x_i, w_i, out=o)
    return out.each[out.cut - 1]
