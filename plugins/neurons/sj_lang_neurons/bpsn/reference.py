"""BPSN, the bidirectional parallel spiking neuron: the equations, and nothing for speed.

A reconstruction of the neuron of "SNN-BERT: Training-efficient Spiking Neural Networks for
energy-efficient BERT", Su et al., Neural Networks 180:106630 (2024), from the properties that its
abstract states (parallel in time, no uninterrupted firing, any length, forward and backward
information): neither code nor equations are open.

Per channel, over the valid tokens only (a masked token is not there). With n = cumsum(m):

    F[t] = sum_{j<t} lf^(n_t-n_j-1) x_j / sum_{j<t} lf^(n_t-n_j-1)      strict past, leaky mean
    B[t] = sum_{j>t} lb^(n_j-n_t-1) x_j / sum_{j>t} lb^(n_j-n_t-1)      strict future, leaky mean
    M[t] = (numerators of F and B) / (denominators of F and B)          two-sided leaky mean
    H[t] = g0 x + gf F + gb B - rho (g0 + gf + gb) M
    S[t] = fire(H[t] - V)                                               variant R

At an edge the missing side is absent: its term and its gain are 0, in the lateral sum too, and M =
0 for a token with no neighbour. Variant G has rho = 0; variant A is G with the numerators in place
of the means; variant K is G with a stateful quantiser:

    r = clip(H / V, 0, kappa) in ticks of 2^-24
    C = cumsum(m r),  S = floor(C + 1/2) - floor(C_prev + 1/2)

which is a soft-reset integrate-and-fire neuron of threshold 1 driven by r and started at v = 1/2;
`fire` gets v_prev + r - 1, with v_prev = frac(C_prev + 1/2) detached.

Spikes on a grid, in R, A and G (`rect`), with an offset o, dimensionless:

    u = H / V - o,  S = clip(round(u), lo, hi),  dS/du = 1 where lo - w <= u <= hi + w, else 0

with lo, hi = 0, 1 and w = 0 (binary with an offset), -1, 1 (ternary) or -N, N or 0, N (integer)
and w = 1/2. Ternary spikes are from arXiv 2406.03287, integer ones from arXiv 2407.20708,
normalised as in 2604.11321, learned offsets from 2604.12365. Their use with BPSN is ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TICKS = 2**24


class Parameters(NamedTuple):
    """All [C]: decays in (0, 1), gains, lateral share rho in (0, 1), threshold V > 0, offset o.

    None if the variant or direction has none. o: None without a grid, 0 without an offset.
    """

    lf: Tensor | None
    lb: Tensor | None
    g0: Tensor
    gf: Tensor | None
    gb: Tensor | None
    rho: Tensor | None
    V: Tensor
    o: Tensor | None = None


class BPSNState(NamedTuple):
    """State of `step`, [B, C] each: the past's numerator and denominator; v = frac(C + 1/2)."""

    P: Tensor
    D: Tensor
    v: Tensor


def sequence(
    x: Tensor,
    p: Parameters,
    fire: Callable[[Tensor], Tensor],
    *,
    variant: str = "R",
    kappa: float = 7 / 8,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x [T, B, C], mask [T, B] -> spikes S and potential H [T, B, C], in O(T^2)."""
    m = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    x = torch.where(m[:, :, None], x, 0)
    n = m.cumsum(0)
    before = (n[:, None] - n[None, :] - 1)[..., None]  # [t, j, B, 1]: n_t - n_j - 1
    t = torch.arange(len(x), device=x.device)
    past = ((t[:, None] > t[None, :])[..., None] & m[:, None] & m[None, :])[..., None]

    zero = torch.zeros_like(x)
    PF, DF = _leak(x, p.lf, before, past) if p.lf is not None else (zero, zero)
    PB, DB = _leak(x, p.lb, -before - 2, past.transpose(0, 1)) if p.lb is not None else (zero, zero)
    H = _potential(x, PF, DF, PB, DB, p, variant)
    if variant != "K":
        return torch.where(m[:, :, None], fire(_over(H, p)), 0), torch.where(m[:, :, None], H, 0)

    r = torch.where(m[:, :, None], _ticks(H, p.V, kappa), 0)
    C = r.detach().mul(TICKS).long().cumsum(0)
    v = ((C - r.detach().mul(TICKS).long() + TICKS // 2) % TICKS).to(x.dtype) / TICKS
    return torch.where(m[:, :, None], fire(v - 1 + r), 0), torch.where(m[:, :, None], H, 0)


def initial(x: Tensor) -> BPSNState:
    """The state before the first token of x [B, C]."""
    return BPSNState(torch.zeros_like(x), torch.zeros_like(x), torch.full_like(x, 0.5))


def step(
    x: Tensor,
    state: BPSNState,
    p: Parameters,
    fire: Callable[[Tensor], Tensor],
    *,
    variant: str = "R",
    kappa: float = 7 / 8,
) -> tuple[Tensor, Tensor, BPSNState]:
    """One valid token of the forward direction: x [B, C], state -> S, H, state."""
    assert p.lf is not None
    P, D, v = state
    H = _potential(x, P, D, torch.zeros_like(P), torch.zeros_like(D), p, variant)
    P, D = p.lf * P + x, p.lf * D + 1
    if variant != "K":
        return fire(_over(H, p)), H, BPSNState(P, D, v)
    u = v.detach() - 1 + _ticks(H, p.V, kappa)
    return fire(u), H, BPSNState(P, D, torch.where(u >= 0, u, u + 1).detach())


def rect(u: Tensor, lo: int, hi: int, w: float) -> Tensor:
    """S on a grid and its gradient."""
    inside = (u >= lo - w) & (u <= hi + w)
    return u.round().clamp(lo, hi).detach() + torch.where(inside, u - u.detach(), 0)


def _over(H: Tensor, p: Parameters) -> Tensor:
    return H - p.V if p.o is None else H / p.V - p.o


def _leak(x: Tensor, decay: Tensor, exponent: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.where(valid, decay ** exponent.clamp(min=0), 0)  # [t, j, B, C]
    return torch.where(valid, w * x, 0).sum(1), w.sum(1)


def _mean(P: Tensor, D: Tensor) -> Tensor:
    return torch.where(D > 0, P / torch.where(D > 0, D, 1), 0)


def _potential(x: Tensor, PF: Tensor, DF: Tensor, PB: Tensor, DB: Tensor, p: Parameters, variant: str) -> Tensor:
    zero = torch.zeros_like(p.g0)
    gf = torch.where(DF > 0, zero if p.gf is None else p.gf, 0)
    gb = torch.where(DB > 0, zero if p.gb is None else p.gb, 0)
    if variant == "A":
        return p.g0 * x + gf * PF + gb * PB
    G = p.g0 * x + gf * _mean(PF, DF) + gb * _mean(PB, DB)
    if variant == "R":
        assert p.rho is not None
        return G - p.rho * (p.g0 + gf + gb) * _mean(PF + PB, DF + DB)
    return G


def _ticks(H: Tensor, V: Tensor, kappa: float) -> Tensor:
    """r in whole ticks; the gradient is that of the clip, straight through the rounding."""
    top = int(kappa * TICKS) / TICKS  # rounded down, which keeps the bound
    r = (H / V).clamp(0, top)
    return r + ((r * TICKS).round() / TICKS - r).detach()
