"""The norm: its equation, and what it learns."""

import torch
from torch import Tensor, nn


class Ember(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps), over the channels of each position (RMSNorm).

    dim: channels. gain: what w begins with. Both are handed in. eps: added to the mean square.
    """

    handed_in = frozenset({"dim", "gain"})

    def __init__(self, *, dim: int, gain: float = 1.0, eps: float = 1e-2) -> None:
        super().__init__()
        self.gain, self.eps = gain, eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [..., D]. Each position has its own statistics, so the mask changes nothing."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
