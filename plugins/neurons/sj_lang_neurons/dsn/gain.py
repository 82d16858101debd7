"""w = 1 - alpha = 1 - sigmoid(a) ** m of DSN, m = 1 / tau, without cancellation where alpha is near 1.

For a whole m from w_i + (1 - w_i) w_j, the gain of i + j, which adds but positive numbers: no exp, no log.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 40.0  # from here on log(1 + exp(z)) is z in float64 too


def gain(z: Tensor, m: float) -> Tensor:
    """w for z = -a. Differentiable."""
    if not _by_powers(m):
        return -torch.expm1(F.softplus(z, threshold=FAR) * -m)
    q = torch.sigmoid(z)
    w = q
    for bit in bin(int(m))[3:]:
        w = w * (2 - w)
        if bit == "1":
            w = w + (1 - w) * q
    return w


def gain_(z: Tensor, m: float, q: Tensor, w: Tensor) -> None:
    """Write q = sigmoid(z) and w to the buffers; z is overwritten."""
    torch.sigmoid(z, out=q)
    if not _by_powers(m):
        torch.ops.aten.softplus.out(z, 1, FAR, out=w)
        w.mul_(-m).expm1_().neg_()
        return
    one, two = q.new_ones(()), q.new_full((), 2.0)
    bits = bin(int(m))[3:]
    if not bits:
        w.copy_(q)
    source = q
    for bit in bits:
        torch.sub(two, source, out=z)
        source = torch.mul(source, z, out=w)
        if bit == "1":
            torch.sub(one, w, out=z)
            w.addcmul_(z, q)


def _by_powers(m: float) -> bool:
    return m.is_integer() and m <= 64
