"""Sub-steps as they are defined, one after the other; ours, no paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def sequence(step: Step, x: Tensor, state: Any, m: int) -> tuple[Tensor, Any]:
    """S_t = sum_{d=1..m} s_{m (t - 1) + d}, where s_i = N(X_t) for each of the m sub-steps of t.

    step: N, from X [B, C, ...] and a state to a spike and the next state. x: [T, B, C, ...].
    """
    sums = []
    for x_t in x:
        total = torch.zeros_like(x_t)
        for _ in range(m):
            s, state = step(x_t, state)
            total = total + s
        sums.append(total)
    return torch.stack(sums), state
