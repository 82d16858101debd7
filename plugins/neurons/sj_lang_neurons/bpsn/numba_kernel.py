"""BPSN for numba: both directions, the lateral term and the firing, row by row, in compiled code.

Flat arrays, columns first to last. P and D are numerator and denominator of the past, Q and E those
of the future, which is scanned against time to the ends of all blocks, then in each block again.
Absent parameters are 0.
"""

import numpy as np

from sj_lang_neurons.jit import Array, add, add_product, copy, fire, flush, jit, product, slope

ROWS = 32  # steps of a block
WIDTH = 512  # columns of a tile
G0, V, LF, GF, LB, GB, RHO = range(7)  # rows of `parameters` and of `sums`
D0 = 7  # a row of `sums`: the denominator carried in


@jit
def forward(
    x: Array, parameters: Array, past: bool, future: bool, lateral: bool,
    normalised: bool, numerator: Array, denominator: Array,
    lengths: Array, kind: int, level: float, lowest: float, out: Array, after: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Spikes, or H - threshold, `out` [T, N]; the numerator after the valid steps, `after`."""
    steps = len(x)
    blocks = -(-steps // ROWS)
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        n_valid = lengths[c]
        width = len(n_valid)
        p = np.empty((len(parameters), width), x.dtype)  # a slice's rows may not be contiguous
        _copy_columns(parameters, c, p)
        P, D = numerator[c].copy(), denominator[c].copy()
        Q, E = np.zeros((ROWS + 1, width), x.dtype), np.zeros((ROWS + 1, width), x.dtype)
        Qs, Es = np.zeros((blocks + 1, width), x.dtype), np.zeros((blocks + 1, width), x.dtype)
        u = np.empty(width, x.dtype)
        if future:
            for number in range(blocks - 1, 0, -1):
                copy(Qs[number + 1], Qs[number])
                copy(Es[number + 1], Es[number])
                for t in range(min(steps, (number + 1) * ROWS) - 1, number * ROWS - 1, -1):
                    _enter(Qs[number], p[LB], x[t, c], n_valid, t)
                    _count(Es[number], p[LB], n_valid, t)
                flush(Qs[number])
        for number in range(blocks):
            start = number * ROWS
            rows = min(ROWS, steps - start)
            copy(Qs[number + 1], Q[rows])
            copy(Es[number + 1], E[rows])
            for r in range(rows - 1 if future else -1, -1, -1):
                copy(Q[r + 1], Q[r])
                copy(E[r + 1], E[r])
                _enter(Q[r], p[LB], x[start + r, c], n_valid, start + r)
                _count(E[r], p[LB], n_valid, start + r)
            for r in range(rows):
                _potential(p, lateral, normalised, x[start + r, c], P, D, Q[r + 1], E[r + 1], u)
                fire(u, kind, level, lowest, out[start + r, c])
                if past:
                    _enter(P, p[LF], x[start + r, c], n_valid, start + r)
                    _count(D, p[LF], n_valid, start + r)
            flush(P)
        copy(P, after[c])


@jit
def backward(
    grad: Array, grad_after: Array, x: Array, parameters: Array, past: bool, future: bool, lateral: bool,
    normalised: bool,
    numerator: Array, denominator: Array, lengths: Array, kind: int, level: float, lowest: float, margin: float,
    grad_x: Array, grad_numerator: Array, sums: Array, first: int, last: int,
) -> None:  # fmt: skip
    """The gradients of x, of the numerator and, [8, N], of `parameters` and the denominator.

    Blocks against time: A, the adjoint of the past. What enters that of the future is kept in
    `to_Q`, and scanned last, with time. dQ, dD, dE are derivatives by the decay, `power` that by
    the denominator carried in.
    """
    steps = len(x)
    blocks = -(-steps // ROWS)
    one = x.dtype.type(1)
    for low in range(first, last, WIDTH):
        c = slice(low, min(low + WIDTH, last))
        n_valid = lengths[c]
        width = len(n_valid)
        p, total = np.empty((len(parameters), width), x.dtype), np.zeros((len(sums), width), x.dtype)
        _copy_columns(parameters, c, p)
        border = np.zeros((blocks, 4, width), x.dtype)  # P, D, dD, power before each block
        run = np.zeros((ROWS + 1, 4, width), x.dtype)
        late = np.zeros((ROWS + 1, 4, width), x.dtype)  # Q, E, dQ, dE
        to_Q = np.zeros((steps if future else 0, width), x.dtype)
        A, zero = grad_after[c].copy(), np.zeros(width, x.dtype)
        u, g, raw, valid = zero.copy(), zero.copy(), zero.copy(), zero.copy()
        weight, gD, mean, share = zero.copy(), zero.copy(), zero.copy(), zero.copy()
        copy(numerator[c], border[0, 0])
        copy(denominator[c], border[0, 1])
        border[0, 3] = one
        for number in range(1, blocks if past else 0):
            _copy_all(border[number - 1], border[number])
            for t in range((number - 1) * ROWS, number * ROWS):
                _step_past(border[number], p[LF], x[t, c], n_valid, t)
            flush(border[number, 0])
            flush(border[number, 3])
        for number in range(blocks - 1, -1, -1):
            start = number * ROWS
            rows = min(ROWS, steps - start)
            _copy_all(border[number], run[0])
            for r in range(rows):
                _copy_all(run[r], run[r + 1])
                if past:
                    _step_past(run[r + 1], p[LF], x[start + r, c], n_valid, start + r)
            _copy_all(late[0], late[rows])
            for r in range(rows - 1, -1, -1):
                t = start + r
                P, D, Q, E = run[r, 0], run[r, 1], late[r + 1, 0], late[r + 1, 1]
                _potential(p, lateral, normalised, x[t, c], P, D, Q, E, u)
                slope(grad[t, c], u, kind, level, lowest, margin, raw)
                _where(raw, n_valid, t, g)
                _subtract(g, total[V])
                product(p[G0], g, grad_x[t, c])
                if lateral:
                    _lateral(p, P, D, Q, E, g, mean, share, total[RHO])
                    _subtract_lateral(p[RHO], mean, g, total[G0])
                add_product(g, x[t, c], total[G0])
                if past:
                    _weight(p[GF], D, share, normalised, weight)
                    _sum_gain(g, P, D, p[RHO], mean, normalised, total[GF])
                    if normalised:
                        _through_denominator(p[GF], P, D, g, mean, share, gD)
                        add_product(gD, run[r, 2], total[LF])
                        add_product(gD, run[r, 3], total[D0])
                    _where(A, n_valid, t, valid)
                    add_product(valid, P, total[LF])
                    add(valid, grad_x[t, c])
                    product(weight, g, raw)
                    _enter(A, p[LF], raw, n_valid, t)
                if future:
                    _weight(p[GB], E, share, normalised, weight)
                    _sum_gain(g, Q, E, p[RHO], mean, normalised, total[GB])
                    if normalised:
                        _through_denominator(p[GB], Q, E, g, mean, share, gD)
                        add_product(gD, late[r + 1, 3], total[LB])
                    product(weight, g, to_Q[t])
                    add_product(to_Q[t], late[r + 1, 2], total[LB])
                    _copy_all(late[r + 1], late[r])
                    _step_future(late[r], p[LB], x[t, c], n_valid, t)
            flush(A)
            flush(late[0, 0])
            flush(late[0, 2])
        copy(A, grad_numerator[c])
        for i in range(len(sums)):
            copy(total[i], sums[i, c])
        if future:
            A[:] = 0
            for t in range(steps):
                _where(A, n_valid, t, valid)
                add(valid, grad_x[t, c])
                _enter(A, p[LB], to_Q[t], n_valid, t)
                if t % ROWS == 0:
                    flush(A)


@jit
def _copy_all(rows: Array, out: Array) -> None:
    for i in range(len(rows)):
        copy(rows[i], out[i])


@jit
def _copy_columns(rows: Array, c: slice, out: Array) -> None:
    for i in range(len(rows)):
        copy(rows[i, c], out[i])


@jit
def _subtract(a: Array, out: Array) -> None:
    for n in range(len(a)):
        out[n] -= a[n]


@jit
def _enter(P: Array, decay: Array, x: Array, n_valid: Array, t: int) -> None:
    now = P.dtype.type(t)
    for n in range(len(P)):
        P[n] = decay[n] * P[n] + x[n] if now < n_valid[n] else P[n]


@jit
def _count(D: Array, decay: Array, n_valid: Array, t: int) -> None:
    now, one = D.dtype.type(t), D.dtype.type(1)
    for n in range(len(D)):
        D[n] = decay[n] * D[n] + one if now < n_valid[n] else D[n]


@jit
def _step_past(run: Array, decay: Array, x: Array, n_valid: Array, t: int) -> None:
    """P, D, dD and power, one token on; the state itself enters its derivative by the decay."""
    _enter(run[2], decay, run[1], n_valid, t)
    _count(run[1], decay, n_valid, t)
    _enter(run[0], decay, x, n_valid, t)
    now = x.dtype.type(t)
    power = run[3]
    for n in range(len(power)):
        power[n] = decay[n] * power[n] if now < n_valid[n] else power[n]


@jit
def _step_future(late: Array, decay: Array, x: Array, n_valid: Array, t: int) -> None:
    """Q, E, dQ and dE, one token back."""
    _enter(late[2], decay, late[0], n_valid, t)
    _enter(late[3], decay, late[1], n_valid, t)
    _enter(late[0], decay, x, n_valid, t)
    _count(late[1], decay, n_valid, t)


@jit
def _where(a: Array, n_valid: Array, t: int, out: Array) -> None:
    """a where step t is valid, else 0."""
    now, zero = a.dtype.type(t), a.dtype.type(0)
    for n in range(len(a)):
        out[n] = a[n] if now < n_valid[n] else zero


@jit
def _potential(
    p: Array, lateral: bool, normalised: bool, x: Array, P: Array, D: Array, Q: Array, E: Array, u: Array
) -> None:
    """H - threshold of a step."""
    for n in range(len(u)):
        u[n] = p[G0, n] * x[n] - p[V, n]
    if not normalised:
        add_product(p[GF], P, u)
        add_product(p[GB], Q, u)
        return
    _add_mean(p[GF], P, D, u)
    _add_mean(p[GB], Q, E, u)
    if lateral:
        _subtract_share(p[RHO], p[G0], p[GF], p[GB], P, D, Q, E, u)


@jit
def _add_mean(gain: Array, P: Array, D: Array, u: Array) -> None:
    one, zero = u.dtype.type(1), u.dtype.type(0)
    for n in range(len(u)):
        u[n] += gain[n] * P[n] * (one / D[n] if D[n] > zero else zero)


@jit
def _subtract_share(
    rho: Array, g0: Array, gf: Array, gb: Array, P: Array, D: Array, Q: Array, E: Array, u: Array
) -> None:
    one, zero = u.dtype.type(1), u.dtype.type(0)
    for n in range(len(u)):
        gains = g0[n] + (gf[n] if D[n] > zero else zero) + (gb[n] if E[n] > zero else zero)
        both = D[n] + E[n]
        u[n] -= rho[n] * gains * (P[n] + Q[n]) * (one / both if both > zero else zero)


@jit
def _lateral(
    p: Array, P: Array, D: Array, Q: Array, E: Array, g: Array, mean: Array, share: Array, total: Array
) -> None:
    """M; rho G / (D + E); and what is added to the gradient of rho."""
    one, zero = g.dtype.type(1), g.dtype.type(0)
    for n in range(len(g)):
        both = D[n] + E[n]
        mean[n] = (P[n] + Q[n]) * (one / both if both > zero else zero)
    g0, gf, gb, rho = p[G0], p[GF], p[GB], p[RHO]
    for n in range(len(g)):
        both = D[n] + E[n]
        gains = g0[n] + (gf[n] if D[n] > zero else zero) + (gb[n] if E[n] > zero else zero)
        share[n] = gains * (one / both if both > zero else zero)
    for n in range(len(g)):
        total[n] -= g[n] * share[n] * (D[n] + E[n]) * mean[n]
    for n in range(len(g)):
        share[n] *= rho[n]


@jit
def _subtract_lateral(rho: Array, mean: Array, g: Array, total: Array) -> None:
    for n in range(len(g)):
        total[n] -= g[n] * rho[n] * mean[n]


@jit
def _sum_gain(g: Array, P: Array, D: Array, rho: Array, mean: Array, normalised: bool, total: Array) -> None:
    one, zero = g.dtype.type(1), g.dtype.type(0)
    if not normalised:
        add_product(g, P, total)
        return
    for n in range(len(g)):
        total[n] += g[n] * (P[n] * (one / D[n]) - rho[n] * mean[n]) if D[n] > zero else zero


@jit
def _weight(gain: Array, D: Array, share: Array, normalised: bool, out: Array) -> None:
    """The weight of a side's numerator in H."""
    one, zero = out.dtype.type(1), out.dtype.type(0)
    if not normalised:
        copy(gain, out)
        return
    for n in range(len(out)):
        out[n] = gain[n] * (one / D[n] if D[n] > zero else zero) - share[n]


@jit
def _through_denominator(gain: Array, P: Array, D: Array, g: Array, mean: Array, share: Array, out: Array) -> None:
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for n in range(len(out)):
        inverse = one / D[n] if D[n] > zero else zero
        out[n] = g[n] * (share[n] * mean[n] - gain[n] * P[n] * inverse * inverse)


# jit.py and firing.py: ea33c84ec55ab038
