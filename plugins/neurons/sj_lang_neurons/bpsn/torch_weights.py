"""The weights of both sides in H = g0 x + af P + ab Q, P and Q the numerators of F and B.

With n valid tokens on a side its denominator is D(n) = 1 + lambda + ... + lambda^(n-1), plus
lambda^n d0 after a carried d0. With

    G = g0 + the gains of the sides that are there (n > 0),   W = Df + Db,   L = rho G / W

the weight of a side is gain / D - L; without `rho` (variants G, K) gain / D. A side that is not
there has weight -L, and numerator 0. If neither is there, L is 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Leak:
    """One side over R steps.

    gain [C, 1]; D, its inverse (0 where D is 0) and, for a backward, dD/dlambda [R, B or 1, C, 1].
    there: 1 where the side has a token, else 0, [R, B or 1, 1, 1]; None: everywhere.
    """

    gain: Tensor
    D: Tensor
    inverse: Tensor
    slope: Tensor | None
    there: Tensor | None


def fill_tables(D: Tensor, inverse: Tensor, slope: Tensor | None, decay: Tensor, *, backwards: bool) -> None:
    """Write D(n), 1 / D(n) (0 for n = 0) and dD/dlambda, n = 0 ... size, to rows, or backwards.

    D, inverse, slope [size + 1, C, 1], decay [C, 1]. By doubling, D(m + k) = D(m) + lambda^m D(k):
    sums of positive numbers.
    """
    size = len(D) - 1

    def rows(first: int, last: int) -> slice:
        return slice(size - last, size - first + 1) if backwards else slice(first, last + 1)

    start, one = rows(0, 0), rows(1, 1)
    for values in (D, slope) if slope is not None else (D,):
        values[start] = 0
    D[one] = 1
    if slope is not None:
        slope[one] = 0
    power, growth, m = decay, torch.ones_like(decay), 1  # lambda^m and its derivative
    while m < size:
        k = min(m, size - m)
        new, old, end = rows(m + 1, m + k), rows(1, k), rows(m, m)
        torch.addcmul(D[end], power, D[old], out=D[new])
        if slope is not None:
            torch.addcmul(slope[end], power, slope[old], out=slope[new])
            slope[new].addcmul_(growth, D[old])
        growth = _flushed(2 * growth * power)
        power = _flushed(power * power)
        m *= 2
    torch.reciprocal(D, out=inverse)
    inverse[start] = 0


def weights(sides: list[Leak], g0: Tensor, rho: Tensor | None, normalised: bool) -> list[Tensor]:
    """The weight of each side, [R, B or 1, C, 1]; not `normalised` (variant A): its gain."""
    if not normalised:
        return [side.gain[None, None] for side in sides]
    if rho is None:
        return [side.gain * side.inverse for side in sides]
    negative = -rho * _gains(sides, g0) * _inverse(sides)
    return [torch.addcmul(negative, side.gain, side.inverse) for side in sides]


def weights_backward(
    ga: list[Tensor], sides: list[Leak], g0: Tensor, rho: Tensor | None, normalised: bool
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """From gradients of the weights to those of each gain, each D (if normalised), g0 and rho."""
    zero = torch.zeros_like(g0)
    if not normalised:
        return [_sum(g, zero) for g in ga], [], zero, zero
    scaled = [g * side.inverse for g, side in zip(ga, sides, strict=True)]
    g_gains = [_sum(g, zero) for g in scaled]
    gD = [g.mul_(side.inverse).mul_(-side.gain) for g, side in zip(scaled, sides, strict=True)]
    if rho is None:
        return g_gains, gD, zero, zero
    inverse, G = _inverse(sides), _gains(sides, g0)
    share = sum(ga[1:], ga[0]) * inverse  # the gradient of -rho G
    gW = share * (rho * G * inverse)
    for side, g, total in zip(sides, gD, g_gains, strict=True):
        g += gW
        total -= rho * _sum(share if side.there is None else share * side.there, zero)
    total = _sum(share, zero)
    return g_gains, gD, -rho * total, -G * total if G.shape == zero.shape else -_sum(share * G, zero)


def _inverse(sides: list[Leak]) -> Tensor:
    """1 / W, 0 where W is 0."""
    W = sum((side.D for side in sides[1:]), sides[0].D)
    return 1 / W if all(side.there is None for side in sides) else torch.where(W > 0, 1 / W, 0)


def _gains(sides: list[Leak], g0: Tensor) -> Tensor:
    return sum((s.gain if s.there is None else s.gain * s.there for s in sides), g0)


def _sum(g: Tensor, like: Tensor) -> Tensor:
    return g.sum_to_size(like.shape) if g.dim() > like.dim() else g


def _flushed(power: Tensor) -> Tensor:
    """Arithmetic with denormal numbers is slow."""
    return power.masked_fill_(power < torch.finfo(power.dtype).tiny, 0)
