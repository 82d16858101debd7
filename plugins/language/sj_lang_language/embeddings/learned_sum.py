"""Learned spike embedding: token and position tables, summed, then binarised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sj_lang import compat


class LearnedSum(nn.Module):
    """S = step(E_token[id] + E_position[position]) in {0, 1}, Beger et al. 2026 (arXiv 2606.12287), `learned_sum`.

    The gradient passes the step through a surrogate, so both tables learn. The ANN twin keeps the sum as it is.

    vocab_size: V; dim: D; max_length: positions; twin: the float embedding of the ANN twin (handed in by the model).
    surrogate_function: a SpikingJelly surrogate by name, for the step at 0.
    """

    given = frozenset({"vocab_size", "dim", "max_length", "twin"})

    def __init__(
        self, *, vocab_size: int, dim: int, max_length: int, twin: bool = False, surrogate_function: str = "ATan"
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, dim)
        self.position = nn.Embedding(max_length, dim)
        self.step = nn.Identity() if twin else compat.surrogate(surrogate_function)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids, positions: `[L, B]` to `[L, B, D]`; `positions` may also be `[L, 1]`."""
        return self.step(self.token(ids) + self.position(positions))
