"""Layer normalization over the channels of each position."""

from __future__ import annotations

from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """y = w (x - mean(x)) / sqrt(var(x) + eps) + b over the last axis, Ba et al. 2016 (arXiv 1607.06450).

    SpikeDecoder's best normalization, though no Linear before it can absorb it at inference.

    dim: channels D (handed in). eps: added to the variance.
    """

    def __init__(self, *, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: `[..., D]`. Statistics are of one position only, so padding cannot enter them: `mask` changes nothing."""
        return super().forward(x)
