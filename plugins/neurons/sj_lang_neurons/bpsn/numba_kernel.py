"""BPSN for numba: both directions, the lateral term and the firing, row by row, in compiled code.

Flat arrays, columns first to last. P and D are numerator and denominator of the past, Q and E those
of the future, which is scanned against time to the ends of all blocks, then in each block again.
Absent parameters are 0.
"""

import numpy as np

from sj_lang_neurons.jit import Array, add_product, copy, fire, flush, jit, product, slope

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
        u, mean, inverse = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
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
                _instant(p, x[start + r, c], u)
                if past:
                    _add_mean(p[GF], P, D, normalised, u)
                if future:
                    _add_mean(p[GB], Q[r + 1], E[r + 1], normalised, u)
                if lateral:
                    _whole_mean(P, Q[r + 1], D, E[r + 1], inverse, mean)
                    _gains(p, D, E[r + 1], inverse)
                    _subtract_product(p[RHO], inverse, mean, u)
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
    carried: bool, grad_x: Array, grad_numerator: Array, sums: Array, first: int, last: int,
) -> None:  # fmt: skip
    """The gradients of x, of the numerator and, [8, N], of `parameters` and the denominator.

    Blocks against time: A, the adjoint of the past. What enters that of the future is kept in
    `to_Q`, and scanned last, with time. dQ, dD, dE are derivatives by the decay, `power` that by
    the denominator carried in, if one is.
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
        u, g, raw, inverse, gains = zero.copy(), zero.copy(), zero.copy(), zero.copy(), zero.copy()
        F, B, M, shared = zero.copy(), zero.copy(), zero.copy(), zero.copy()
        to_F, to_B = zero.copy(), zero.copy()  # dF / dP, dB / dQ
        copy(numerator[c], border[0, 0])
        copy(denominator[c], border[0, 1])
        border[0, 3] = one
        for number in range(1, blocks if past else 0):
            _copy_all(border[number - 1], run[0])
            for r in range(ROWS):
                t = (number - 1) * ROWS + r
                _step_past(run[r], p[LF], x[t, c], n_valid, t, carried, run[r + 1])
            flush(run[ROWS, 0])
            flush(run[ROWS, 3])
            _copy_all(run[ROWS], border[number])
        for number in range(blocks - 1, -1, -1):
            start = number * ROWS
            rows = min(ROWS, steps - start)
            _copy_all(border[number], run[0])
            for r in range(rows if past else 0):
                _step_past(run[r], p[LF], x[start + r, c], n_valid, start + r, carried, run[r + 1])
            _copy_all(late[0], late[rows])
            for r in range(rows - 1, -1, -1):
                t = start + r
                before = run[r if past else 0]
                P, D, Q, E = before[0], before[1], late[r + 1, 0], late[r + 1, 1]
                _instant(p, x[t, c], u)
                if past:
                    _mean(P, D, normalised, to_F, F)
                    add_product(p[GF], F, u)
                if future:
                    _mean(Q, E, normalised, to_B, B)
                    add_product(p[GB], B, u)
                if lateral:
                    _whole_mean(P, Q, D, E, inverse, M)
                    _gains(p, D, E, gains)
                    _subtract_product(p[RHO], gains, M, u)
                slope(grad[t, c], u, kind, level, lowest, margin, raw)
                _where(raw, n_valid, t, g)
                _subtract(g, total[V])
                _to_input(p[G0], g, A, past, n_valid, t, grad_x[t, c])
                add_product(g, x[t, c], total[G0])
                if lateral:
                    _subtract_product(gains, M, g, total[RHO])
                    _product(p[RHO], M, g, raw)
                    _subtract(raw, total[G0])
                    _subtract_where(raw, D, total[GF])
                    _subtract_where(raw, E, total[GB])
                    product(raw, inverse, shared)
                    product(gains, shared, shared)  # the gradient of D + E
                    _product(p[RHO], gains, g, raw)
                    product(raw, inverse, inverse)  # less that of P + Q
                if past:
                    add_product(g, F, total[GF])
                    _product(p[GF], to_F, g, raw)
                    _sum_decay(A, P, raw, F, before[2], normalised, n_valid, t, total[LF])
                    if normalised and carried:
                        _subtract_product(raw, F, before[3], total[D0])
                    if lateral:
                        add_product(shared, before[2], total[LF])
                        if carried:
                            add_product(shared, before[3], total[D0])
                        _subtract(inverse, raw)
                    _enter(A, p[LF], raw, n_valid, t)
                if future:
                    add_product(g, B, total[GB])
                    _product(p[GB], to_B, g, raw)
                    if normalised:
                        _subtract_product(raw, B, late[r + 1, 3], total[LB])
                    if lateral:
                        add_product(shared, late[r + 1, 3], total[LB])
                        _subtract(inverse, raw)
                    copy(raw, to_Q[t])
                    add_product(raw, late[r + 1, 2], total[LB])
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
                _add_valid(A, n_valid, t, grad_x[t, c])
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
def _step_past(run: Array, decay: Array, x: Array, n_valid: Array, t: int, carried: bool, after: Array) -> None:
    """P, D, dD and power, one token on; the state itself enters its derivative by the decay."""
    now, one = x.dtype.type(t), x.dtype.type(1)
    P, D, dD, power = run[0], run[1], run[2], run[3]
    for n in range(len(x)):
        after[2, n] = decay[n] * dD[n] + D[n] if now < n_valid[n] else dD[n]
    for n in range(len(x)):
        after[1, n] = decay[n] * D[n] + one if now < n_valid[n] else D[n]
    for n in range(len(x)):
        after[0, n] = decay[n] * P[n] + x[n] if now < n_valid[n] else P[n]
    if carried:
        for n in range(len(x)):
            after[3, n] = decay[n] * power[n] if now < n_valid[n] else power[n]


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
def _add_valid(a: Array, n_valid: Array, t: int, out: Array) -> None:
    now, zero = a.dtype.type(t), a.dtype.type(0)
    for n in range(len(a)):
        out[n] += a[n] if now < n_valid[n] else zero


@jit
def _to_input(g0: Array, g: Array, A: Array, past: bool, n_valid: Array, t: int, out: Array) -> None:
    """The gradient of a step's input: through its own potential, and those after it."""
    now, zero = g.dtype.type(t), g.dtype.type(0)
    if past:
        for n in range(len(g)):
            out[n] = g0[n] * g[n] + (A[n] if now < n_valid[n] else zero)
    else:
        product(g0, g, out)


@jit
def _sum_decay(
    A: Array, P: Array, raw: Array, F: Array, dD: Array, normalised: bool, n_valid: Array, t: int, total: Array
) -> None:
    """The gradient of the decay, through P and through F = P / D. raw: g gf / D."""
    now, zero = A.dtype.type(t), A.dtype.type(0)
    if normalised:
        for n in range(len(A)):
            total[n] += (A[n] * P[n] if now < n_valid[n] else zero) - raw[n] * F[n] * dD[n]
    else:
        for n in range(len(A)):
            total[n] += A[n] * P[n] if now < n_valid[n] else zero


@jit
def _instant(p: Array, x: Array, u: Array) -> None:
    """A token's own part of H - threshold."""
    g0, threshold = p[G0], p[V]
    for n in range(len(u)):
        u[n] = g0[n] * x[n] - threshold[n]


@jit
def _add_mean(gain: Array, P: Array, D: Array, normalised: bool, u: Array) -> None:
    """gain P / D, 0 where D is 0; gain P if not normalised."""
    one, zero = D.dtype.type(1), D.dtype.type(0)
    if normalised:
        for n in range(len(u)):
            u[n] += gain[n] * P[n] * (one / D[n] if D[n] > zero else zero)
    else:
        add_product(gain, P, u)


@jit
def _mean(P: Array, D: Array, normalised: bool, inverse: Array, out: Array) -> None:
    """P / D and 1 / D, both 0 where D is 0; P and 1 if not normalised."""
    one, zero = D.dtype.type(1), D.dtype.type(0)
    if normalised:
        for n in range(len(D)):
            inverse[n] = one / D[n] if D[n] > zero else zero
        product(P, inverse, out)
    else:
        inverse[:] = one
        copy(P, out)


@jit
def _whole_mean(P: Array, Q: Array, D: Array, E: Array, inverse: Array, out: Array) -> None:
    """M = (P + Q) / (D + E), and 1 / (D + E), both 0 where D and E are 0."""
    one, zero = D.dtype.type(1), D.dtype.type(0)
    for n in range(len(D)):
        both = D[n] + E[n]
        inverse[n] = one / both if both > zero else zero
    for n in range(len(D)):
        out[n] = (P[n] + Q[n]) * inverse[n]


@jit
def _gains(p: Array, D: Array, E: Array, out: Array) -> None:
    """g0 and the gains of the sides that there are."""
    g0, gf, gb, zero = p[G0], p[GF], p[GB], D.dtype.type(0)
    for n in range(len(D)):
        out[n] = g0[n] + (gf[n] if D[n] > zero else zero) + (gb[n] if E[n] > zero else zero)


@jit
def _product(a: Array, b: Array, c: Array, out: Array) -> None:
    for n in range(len(out)):
        out[n] = a[n] * b[n] * c[n]


@jit
def _subtract_product(a: Array, b: Array, c: Array, out: Array) -> None:
    for n in range(len(out)):
        out[n] -= a[n] * b[n] * c[n]


@jit
def _subtract_where(a: Array, D: Array, out: Array) -> None:
    """Less a, where D is not 0."""
    zero = D.dtype.type(0)
    for n in range(len(out)):
        out[n] -= a[n] if D[n] > zero else zero


# jit.py and firing.py: ea33c84ec55ab038
