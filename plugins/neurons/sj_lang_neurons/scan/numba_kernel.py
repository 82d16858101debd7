"""The linear recurrence for numba, row by row. Flat arrays, columns first to last."""

import numpy as np

from sj_lang_neurons.jit import Array, add_product, copy, flush, jit, product

WIDTH = 1024  # columns of a tile
ROWS = 32  # steps between two looks for numbers too small to be normal


@jit
def forward(a: Array, u: Array, h_0: Array, reverse: bool, out: Array, first: int, last: int) -> None:
    """h [T, N], `out`, of a [T, N] or [1, N], u [T, N] and h_0 [N]."""
    steps = len(u)
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        for i in range(steps):
            t = steps - 1 - i if reverse else i
            before = t + 1 if reverse else t - 1
            _step(a[t if len(a) > 1 else 0, c], h_0[c] if i == 0 else out[before, c], u[t, c], out[t, c])
            if i % ROWS == 0:
                flush(out[t, c])


@jit
def backward(
    grad: Array, a: Array, h: Array, h_0: Array, reverse: bool, grad_a: Array, grad_u: Array, grad_h: Array,
    first: int, last: int,
) -> None:  # fmt: skip
    """The same recurrence, the other way, with the decays shifted by a step."""
    steps = len(h)
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        total = np.zeros(len(h_0[c]))  # of a decay for all steps
        for i in range(steps - 1, -1, -1):
            t = steps - 1 - i if reverse else i
            after, before = (t - 1, t + 1) if reverse else (t + 1, t - 1)
            if i == steps - 1:
                copy(grad[t, c], grad_u[t, c])
            else:
                _step(a[after if len(a) > 1 else 0, c], grad_u[after, c], grad[t, c], grad_u[t, c])
            if i % ROWS == 0:
                flush(grad_u[t, c])
            h_t = h_0[c] if i == 0 else h[before, c]
            if len(a) > 1:
                product(grad_u[t, c], h_t, grad_a[t, c])
            else:
                add_product(grad_u[t, c], h_t, total)
        if len(a) == 1:
            copy(total, grad_a[0, c])
        start = steps - 1 if reverse else 0
        product(a[start if len(a) > 1 else 0, c], grad_u[start, c], grad_h[c])


@jit
def _step(a: Array, h: Array, u: Array, out: Array) -> None:
    for n in range(len(out)):
        out[n] = a[n] * h[n] + u[n]


# jit.py and firing.py: ea33c84ec55ab038
