"""DSN for numba: `torch_block.py`'s arithmetic, row by row. Flat arrays, columns first to last."""

import numpy as np

from sj_lang_neurons.jit import Array, add, add_product, copy, exp, fire, flush, jit, product, slope

ROWS = 32  # steps of a block
WIDTH = 512  # columns of a tile: its rows stay in the first-level cache, its blocks in the second


@jit
def forward(
    x: Array, tail: Array, h_0: Array, weight: Array, bias: Array, lengths: Array, m: float, kind: int, level: float,
    threshold: float, out: Array, h_last: Array, borders: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Spikes or potentials, `out` [T, N]; the last potential; those before blocks, `borders`."""
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        v = h_0[c].copy()
        h = v.astype(np.float64)  # a small gain of a long memory would be lost in the last digits
        q, w = np.empty_like(v), np.empty_like(v)
        for t in range(len(x)):
            if t % ROWS == 0:
                flush(v)
                copy(v, borders[t // ROWS, c])
            _gain(x, tail, weight, bias, lengths, m, t, c, q, w)
            _leak(h, x[t, c], w)
            copy(h, v)
            fire(v, kind, level, threshold, out[t, c])
        copy(v, h_last[c])


@jit
def backward(
    grad: Array, grad_last: Array, borders: Array, x: Array, tail: Array, weight: Array, bias: Array, lengths: Array,
    m: float, kind: int, level: float, threshold: float, margin: float, grad_x: Array, grad_tail: Array,
    grad_h: Array, grad_weight: Array, grad_bias: Array, first: int, last: int,
) -> None:  # fmt: skip
    """The gradients; those of weight and bias [k, N] and [1, N] begin at zero."""
    taps = len(weight)
    reach = max(taps - 1, 0)
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        gh = grad_last[c].copy()
        alpha, one = np.ones_like(gh), np.empty_like(gh)
        width = len(gh)
        q, w = np.empty((ROWS, width), x.dtype), np.empty((ROWS, width), x.dtype)
        h = np.empty((ROWS + 1, width), x.dtype)
        g = np.zeros((ROWS + reach, width), x.dtype)  # and the next block's first rows
        for number in range((len(x) - 1) // ROWS, -1, -1):
            start = number * ROWS
            rows = min(ROWS, len(x) - start)
            copy(borders[number, c], h[0])
            for r in range(rows):
                _gain(x, tail, weight, bias, lengths, m, start + r, c, q[r], w[r])
                copy(h[r], h[r + 1])
                _leak(h[r + 1], x[start + r, c], w[r])
            for r in range(rows - 1, -1, -1):
                t = start + r
                slope(grad[t, c], h[r + 1], kind, level, threshold, margin, one)
                _decay_and_add(gh, alpha, one)
                _rest(w[r], alpha)
                _through_gain(q[r], h[r + 1], x[t, c], gh, m, g[r])
                product(w[r], gh, grad_x[t, c])
                for i in range(taps):
                    add_product(weight[i, c], g[r + reach - i], grad_x[t, c])
                    before = t - reach + i
                    add_product(g[r], x[before, c] if before >= 0 else tail[before + reach, c], grad_weight[i, c])
                if len(bias) == 1:
                    add(g[r], grad_bias[0, c])
                else:
                    copy(g[r], grad_bias[t, c])
            flush(gh)
            for i in range(reach - 1 if number else -1, -1, -1):
                copy(g[i], g[ROWS + i])
        for s in range(reach):  # the inputs before the first
            copy(np.zeros(width, x.dtype), grad_tail[s, c])
            for i in range(s + 1):
                add_product(weight[i, c], g[s - i], grad_tail[s, c])
        product(alpha, gh, grad_h[c])


@jit
def _gain(
    x: Array, tail: Array, weight: Array, bias: Array, lengths: Array, m: float, t: int, c: slice, q: Array, w: Array
) -> None:
    """q = sigmoid(-a) and w = 1 - alpha of a step; both 0 after the valid ones. As `decay.py`."""
    taps = len(weight)
    copy(bias[min(t, len(bias) - 1), c], q)
    for i in range(taps):
        before = t - taps + 1 + i
        add_product(weight[i, c], x[before, c] if before >= 0 else tail[before + taps - 1, c], q)
    one, far = x.dtype.type(1), x.dtype.type(40)
    if m == np.floor(m) and m <= 64:
        for n in range(len(q)):
            q[n] = one / (one + exp(q[n]))
            w[n] = q[n]
        bit = 1 << int(np.log2(m))
        while bit > 1:
            bit //= 2
            _twice(w)
            if int(m) & bit:
                _once_more(q, w)
    else:
        power = x.dtype.type(m)
        for n in range(len(q)):
            z = -q[n]
            w[n] = -np.expm1(-power * (z if z > far else np.log1p(np.exp(z))))
            q[n] = one / (one + np.exp(-z))
    if len(lengths):
        n_valid = lengths[c]
        for n in range(len(q)):
            if t >= n_valid[n]:
                q[n], w[n] = x.dtype.type(0), x.dtype.type(0)


@jit
def _twice(w: Array) -> None:
    for n in range(len(w)):
        w[n] += (w.dtype.type(1) - w[n]) * w[n]


@jit
def _once_more(q: Array, w: Array) -> None:
    for n in range(len(w)):
        w[n] += (w.dtype.type(1) - w[n]) * q[n]


@jit
def _leak(h: Array, x: Array, w: Array) -> None:
    half, one = w.dtype.type(0.5), w.dtype.type(1)
    for n in range(len(h)):  # from the nearer end: for w = 1 it is exactly x
        h[n] = h[n] + w[n] * (x[n] - h[n]) if w[n] < half else x[n] - (one - w[n]) * (x[n] - h[n])


@jit
def _decay_and_add(gh: Array, alpha: Array, one: Array) -> None:
    for n in range(len(gh)):
        gh[n] = one[n] + alpha[n] * gh[n]


@jit
def _rest(w: Array, alpha: Array) -> None:
    for n in range(len(w)):
        alpha[n] = w.dtype.type(1) - w[n]


@jit
def _through_gain(q: Array, h: Array, x: Array, gh: Array, m: float, g: Array) -> None:
    power = q.dtype.type(m)
    for n in range(len(q)):
        g[n] = power * q[n] * (h[n] - x[n]) * gh[n]


# jit.py and firing.py: ea33c84ec55ab038
