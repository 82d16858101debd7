"""DSN, the dynamic decay spiking neuron: the equations, and nothing for speed.

"Parallel Training in Spiking Neural Networks", Huang, Yao, Pan, Lv, Xu, Zheng, Xu, Li; arXiv
2602.01133 (2026). Per channel, X_t the input current, H_t the membrane potential, S_t the spike;
there is no reset:

    a_t     = sum_{i<k} W_i X_{t-k+1+i} + b              (11)   zeros before the first step
    alpha_t = sigmoid(a_t) ** (1 / tau)                  (12)   g_t = logsigmoid(a_t) / tau
    H_t     = alpha_t H_{t-1} + (1 - alpha_t) X_t        (9)    H_0 = 0
    S_t     = clip(round(H_t), 0, N)                     (10)   gradient 1 in 0 <= H <= N, else 0

The bias b is ours, and so are the other two decays in detail: "linear", a_t = W X_t + b with a
matrix over the channels (the paper's fully connected ablation), and "static", a_t = b.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Logit = Callable[[Tensor], Tensor]  # the last k inputs [B, k, C, ...] -> a_t [B, C, ...]


def conv(W: Tensor, b: Tensor) -> Logit:
    """(11). W [C, k]: the taps of each channel, the oldest input first; b [C]."""
    return lambda window: torch.einsum("bkc...,ck->bc...", window, W) + _channels(b, window)


def linear(W: Tensor, b: Tensor) -> Logit:
    """W [C, C], b [C]."""
    return lambda window: torch.einsum("bc...,dc->bd...", window[:, -1], W) + _channels(b, window)


def static(b: Tensor) -> Logit:
    """b [C]."""
    return lambda window: _channels(b, window).expand_as(window[:, -1])


def rect(H: Tensor, N: int) -> Tensor:
    """(10) and its gradient."""
    return H.round().clamp(0, N).detach() + (H.clamp(0, N) - H.clamp(0, N).detach())


def step(
    X: Tensor, H: Tensor, tail: Tensor, *, logit: Logit, tau: float, fire: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: X, H [B, C, ...] and tail [B, k-1, C, ...], the inputs before, to S, H, tail."""
    window = torch.cat((tail, X.unsqueeze(1)), 1)
    g = F.logsigmoid(logit(window)) / tau
    H = g.exp() * H - torch.expm1(g) * X
    return fire(H), H, window[:, 1:]


def sequence(
    X: Tensor, H: Tensor, tail: Tensor, *, logit: Logit, tau: float, fire: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of X [T, B, C, ...]: S [T, B, C, ...], and H and tail after the last."""
    S = []
    for X_t in X.unbind(0):
        S_t, H, tail = step(X_t, H, tail, logit=logit, tau=tau, fire=fire)
        S.append(S_t)
    return torch.stack(S), H, tail


def _channels(b: Tensor, window: Tensor) -> Tensor:
    return b.reshape(-1, *(1,) * (window.dim() - 3))
