"""The rows of one block of h_t = h_{t-1} + w_t (x_t - h_{t-1}), DSN's recurrence. No autograd: buffers in, out.

The same as a linear recurrence of decay 1 - w, but that number is never formed: for small w it keeps few of its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sj_lang_neurons.scan.rows import CHUNK, chunked_rows


def leak(x: Tensor, w: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Write h_t to `out`; returns its last row, a view. x, w, out [R, N], h [N], rows contiguous."""
    return _scan(x, w, h, out, driven=False)


def _scan(x: Tensor, w: Tensor, h: Tensor, out: Tensor, *, driven: bool) -> Tensor:
    """`leak`; if driven, x stands for w x: h_t = h_{t-1} + (x_t - w_t h_{t-1})."""
    cut = chunked_rows(*x.shape)
    if cut:
        h = _chunks(x[:cut], w[:cut], h, out[:cut], driven)
    for x_t, w_t, o in zip(x[cut:].unbind(0), w[cut:].unbind(0), out[cut:].unbind(0), strict=True):
        h = _step(h, x_t, w_t, o, driven)
    return h


def _step(h: Tensor, x: Tensor, w: Tensor, out: Tensor, driven: bool) -> Tensor:
    if driven:
        return torch.add(torch.addcmul(x, w, h, value=-1), h, out=out)
    return torch.lerp(h, x, w, out=out)


def _chunks(x: Tensor, w: Tensor, h: Tensor, out: Tensor, driven: bool) -> Tensor:
    """Chunks side by side, twice: from zero, for what each adds, U, and its gain, W; then from its border.

    The states at the borders are c' = c + (U - W c).
    """
    x_l, w_l, o_l = (value.view(-1, CHUNK, x.shape[1]).unbind(1) for value in (x, w, out))
    one = w.new_ones(())
    U = x_l[0].clone(memory_format=torch.contiguous_format) if driven else x_l[0] * w_l[0]
    W = w_l[0].clone(memory_format=torch.contiguous_format)
    for x_i, w_i in zip(x_l[1:], w_l[1:], strict=True):
        U = _step(U, x_i, w_i, U, driven)
        torch.lerp(W, one, w_i, out=W)
    state = torch.empty_like(W)
    state[0] = h
    if len(state) > 1:
        _scan(U[:-1], W[:-1], h, state[1:], driven=True)
    for x_i, w_i, o in zip(x_l, w_l, o_l, strict=True):
        state = _step(state, x_i, w_i, o, driven)
    return out[-1]
