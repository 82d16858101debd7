"""DSN's w = 1 - alpha = 1 - sigmoid(a) ** m, m = 1 / tau, without cancellation for alpha near 1.

A whole m takes sums of positive numbers only: w_i + (1 - w_i) w_j is the gain of i + j.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 40.0  # from here on log(1 + exp(z)) is z in float64 too


def gain(z: Tensor, m: float) -> Tensor:
    """w for z = -a. Differentiable."""
    if not by_powers(m):
        return -torch.expm1(F.softplus(z, threshold=FAR) * -m)
    q = torch.sigmoid(z)
    w, one = q, q.new_ones(())
    for bit in bin(int(m))[3:]:
        w = torch.lerp(w, one, w)
        if bit == "1":
            w = torch.lerp(w, one, q)
    return w


def products(m: float) -> int:
    """Multiplications and look-ups of `gain` for one number."""
    if not by_powers(m):
        return 3
    bits = bin(int(m))[3:]
    return 1 + len(bits) + bits.count("1")


def gain_(z: Tensor, m: float, w: Tensor) -> None:
    """Turn z into q = sigmoid(z) and write w, without autograd."""
    if not by_powers(m):
        torch.ops.aten.softplus.out(z, 1, FAR, out=w)
        w.mul_(-m).expm1_().neg_()
        z.sigmoid_()
        return
    q = z.sigmoid_()
    one, source = q.new_ones(()), q
    for bit in bin(int(m))[3:]:
        source = torch.lerp(source, one, source, out=w)
        if bit == "1":
            torch.lerp(w, one, q, out=w)
    if source is q:
        w.copy_(q)


def by_powers(m: float) -> bool:
    """Whether m is whole and small, so that products are enough."""
    return m.is_integer() and m <= 64
