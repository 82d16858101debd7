"""Batch normalization over the valid tokens of a batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


class BatchNorm(nn.Module):
    """y = w (x - mean) / sqrt(var + eps) + b, per channel, over valid positions (arXiv 1502.03167).

    In training mean and (biased) variance are those of the batch, or of its part in this process;
    running means of both, the variance unbiased, are kept for evaluation, where a Linear before it
    can absorb the whole.

    dim: channels D; gain: what w starts with (both handed in). eps: added to the variance.
    momentum: weight of a new batch in the running figures.
    """

    handed_in = frozenset({"dim", "gain"})

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, *, dim: int, gain: float = 1.0, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.gain, self.eps, self.momentum = gain, eps, momentum
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.register_buffer("running_mean", torch.empty(dim))
        self.register_buffer("running_var", torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand of each channel in evaluation."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: `[..., D]`; mask: x's shape without D, True = valid. Other positions do not enter the
        statistics."""
        if not self.training:
            scale, shift = self.affine()
            return x * scale.to(x.dtype) + shift.to(x.dtype)
        if mask is None:
            flat = x.reshape(-1, x.shape[-1])
            y = batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
            return y.view_as(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~mask[..., None], 0)
        axes = tuple(range(x.dim() - 1))
        count = mask.sum().clamp(min=1).to(wide.dtype)
        mean = wide.sum(axes) / count
        centred = (wide - mean).masked_fill(~mask[..., None], 0)
        variance = centred.square().sum(axes) / count
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)
