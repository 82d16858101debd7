"""What kernels compiled by numba share: their compilation, and arithmetic that becomes vectors.

A kernel works on rows, the columns of one step, in passes over few arrays. A loop over more arrays,
any two of which might overlap, is not vectorised.

numba's cache on disk notices changes of the file that a function is in, and of no other file. This
file therefore ends with a line that changes with firing.py, and each file of kernels with one that
changes with firing.py and this file. tests/neurons/test_numba.py says what the lines must be.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from sj_lang_neurons import firing

# Sums may be taken in any order and products fused; NaN and infinities count.
FAST = {"contract", "nsz", "arcp", "reassoc", "afn"}
Array = Any

POTENTIALS, RECT = firing.POTENTIALS, firing.RECT
ATAN, SIGMOID, QUADRATIC, EXP, SOFT_SIGN, ERF, SUPER_SPIKE = (
    firing.HEAVISIDES[name]
    for name in ("ATan", "Sigmoid", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "Erf", "SuperSpike")
)


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use, and keep the code on disk if a folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(function)


def exp(v: Any) -> Any:
    """e ** v; in float32 a polynomial, 1 or 2 ulp off, infinite above 87, at least e ** -87."""
    return np.exp(v)


@overload(exp)
def _exp(v):  # type: ignore[no-untyped-def]  # numba compares signatures
    if v != types.float32:
        return lambda v: np.exp(v)
    f = np.float32
    log2_e, high, low = f(1.44269504), f(0.693359375), f(-2.12194440e-4)
    a, b, c = f(1.98756915e-4), f(1.39819995e-3), f(8.33345191e-3)
    d, e, half = f(4.16657959e-2), f(1.66666655e-1), f(0.5)
    one, most, huge, bias, mantissa = f(1), f(87), f(3e38), np.int32(127), np.int32(23)

    def polynomial(v):  # type: ignore[no-untyped-def]
        w = min(max(v, -most), most)
        n = np.floor(w * log2_e + half)
        r = w - n * high - n * low
        p = ((((a * r + b) * r + c) * r + d) * r + e) * r + half
        p = p * r * r + r + one
        power = np.int32((np.int32(n) + bias) << mantissa).view(np.float32)
        return p * power if v <= most else v * huge  # infinite, or NaN

    return polynomial


@jit
def fire(h: Array, kind: int, level: float, threshold: float, out: Array) -> None:
    """Spikes of a row of potentials, as `surrogates.cuh`; parameters as `slope`. NaN stays."""
    zero, one, most, over = h.dtype.type(0), h.dtype.type(1), h.dtype.type(level), h.dtype.type(threshold)
    if kind == POTENTIALS:
        for n in range(len(h)):
            out[n] = h[n]
    elif kind == RECT:
        for n in range(len(h)):
            out[n] = min(max(np.rint(h[n]), over), most) if h[n] == h[n] else h[n]
    else:
        for n in range(len(h)):
            out[n] = (one if h[n] >= over else zero) if h[n] == h[n] else h[n]


@jit
def slope(grad: Array, h: Array, kind: int, level: float, threshold: float, margin: float, out: Array) -> None:
    """The gradient that comes through the firing.

    level, threshold: alpha and threshold of a surrogate; the highest and the lowest spike of RECT.
    """
    number = h.dtype.type
    zero, half, one, a, over = number(0), number(0.5), number(1), number(level), number(threshold)
    if kind == POTENTIALS:
        for n in range(len(h)):
            out[n] = grad[n]
    elif kind == RECT:
        first, last = number(threshold - margin), number(level + margin)
        for n in range(len(h)):
            out[n] = grad[n] if first <= h[n] <= last else zero
    elif kind == ATAN:
        scale = number(np.pi / 2 * level)
        for n in range(len(h)):
            u = scale * (h[n] - over)
            out[n] = grad[n] * (a * half) / (one + u * u)
    elif kind == SIGMOID:
        for n in range(len(h)):
            s = one / (one + exp(-a * (h[n] - over)))
            out[n] = grad[n] * a * s * (one - s)
    elif kind == QUADRATIC:
        for n in range(len(h)):
            size = abs(h[n] - over)
            out[n] = grad[n] * (a - a * a * size) if size <= one / a else zero
    elif kind == EXP:
        for n in range(len(h)):
            out[n] = grad[n] * (a * half) * exp(-a * abs(h[n] - over))
    elif kind == SOFT_SIGN:
        for n in range(len(h)):
            v = one / a + abs(h[n] - over)
            out[n] = grad[n] * half / (a * v * v)
    elif kind == ERF:
        scale = number(level / np.sqrt(np.pi))
        for n in range(len(h)):
            u = a * (h[n] - over)
            out[n] = grad[n] * scale * exp(-u * u)
    elif kind == SUPER_SPIKE:
        for n in range(len(h)):
            v = one + abs(h[n] - over)
            out[n] = grad[n] * a / (v * v)
    else:  # SpikingJelly's Rect
        for n in range(len(h)):
            out[n] = grad[n] * a if abs(h[n] - over) < half / a else zero


@jit
def flush(h: Array) -> None:
    """Set numbers too small to be normal to 0: arithmetic on them is slow."""
    tiny = np.finfo(h.dtype).tiny
    for n in range(len(h)):
        if abs(h[n]) < tiny:
            h[n] = h.dtype.type(0)


@jit
def copy(a: Array, out: Array) -> None:
    """Copy a row; faster than an assignment, which looks for overlaps and compiles for 2 s."""
    for n in range(len(a)):
        out[n] = a[n]


@jit
def add(a: Array, out: Array) -> None:
    for n in range(len(a)):
        out[n] += a[n]


@jit
def product(a: Array, b: Array, out: Array) -> None:
    for n in range(len(a)):
        out[n] = a[n] * b[n]


@jit
def add_product(a: Array, b: Array, out: Array) -> None:
    for n in range(len(a)):
        out[n] += a[n] * b[n]


# firing.py: 7d515e2bff2ba7df
