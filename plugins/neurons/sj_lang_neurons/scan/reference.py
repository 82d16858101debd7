"""The linear recurrence: its definition, and nothing for speed.

    h_t = a_t h_{t-1} + u_t          h_{-1} = h_0, the initial state

In reverse, h_t = a_t h_{t+1} + u_t, begun after the last step.
"""

import torch
from torch import Tensor


def step(a: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """One step; all of one shape."""
    return a * h + u


def sequence(a: Tensor, u: Tensor, h: Tensor, reverse: bool = False) -> Tensor:
    """All h_t [T, ...]. a [T, ...] or [1, ...] (one decay for all steps), u [T, ...], h [...]."""
    steps = list(zip(a.expand_as(u).unbind(0), u.unbind(0), strict=True))
    out = []
    for a_t, u_t in reversed(steps) if reverse else steps:
        h = step(a_t, u_t, h)
        out.append(h)
    return torch.stack(out[::-1] if reverse else out)
