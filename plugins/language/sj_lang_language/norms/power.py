"""PowerNorm: division by a running root mean square, with a backward pass of its own."""

from typing import Any

import torch
from torch import Tensor, nn


class PowerNorm(nn.Module):
    """y = w x / sqrt(phi + eps) + b, per channel, phi a running mean of x^2 (arXiv 2003.07845).

    In training phi is the running one too, so that training and evaluation divide by the same, and
    the backward pass subtracts a running mean of what the batch's own moment would take away. A
    Linear before it can absorb the whole in evaluation.

    dim: channels D; gain: what w starts with (both handed in). eps: added to phi. alpha: of the
    running figures, forward and backward, in (0, 1): the share that stays. warmup: steps that
    divide by the moment of the batch itself, with its exact gradient; phi is the mean over them.
    """

    handed_in = frozenset({"dim", "gain"})

    weight: nn.Parameter
    bias: nn.Parameter
    phi: Tensor
    nu: Tensor
    steps: Tensor

    def __init__(
        self, *, dim: int, gain: float = 1.0, eps: float = 1e-5, alpha: float = 0.9, warmup: int = 10_000
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"power: alpha is {alpha}, expected a number between 0 and 1")
        if warmup < 1:
            raise ValueError(f"power: warmup is {warmup}, expected 1 or more: phi begins with a batch")
        self.gain, self.eps, self.alpha, self.warmup = gain, eps, alpha, warmup
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.register_buffer("phi", torch.empty(dim))
        self.register_buffer("nu", torch.empty(dim))
        self.register_buffer("steps", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)
        nn.init.ones_(self.phi)
        for tensor in (self.bias, self.nu, self.steps):
            nn.init.zeros_(tensor)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand of each channel in evaluation."""
        return self.weight * (self.phi + self.eps).rsqrt(), self.bias

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: `[..., D]`; mask: x's shape without D, True = valid. Others are in no statistics."""
        if not self.training:
            scale, shift = self.affine()
            return x * scale.to(x.dtype) + shift.to(x.dtype)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if mask is None:
            count = torch.tensor(float(x[..., 0].numel()), device=x.device, dtype=wide.dtype)
        else:
            wide = wide.masked_fill(~mask[..., None], 0)
            count = mask.sum().clamp(min=1).to(wide.dtype)
        moment = wide.square().sum(tuple(range(x.dim() - 1))) / count
        if self.steps < self.warmup:
            normalized = wide * (moment + self.eps).rsqrt()
        else:
            normalized = _ByRunningMoment.apply(wide, self.phi, self.nu, self.eps, self.alpha, count)
        with torch.no_grad():
            self.steps += 1
            share = max(1 - self.alpha, 1 / float(self.steps)) if self.steps <= self.warmup else 1 - self.alpha
            self.phi.lerp_(moment.to(self.phi.dtype), share)
        return (normalized * self.weight + self.bias).to(x.dtype)


class _ByRunningMoment(torch.autograd.Function):
    """y = x / sqrt(phi + eps);  dx = (dy - nu y) / sqrt(phi + eps), and nu follows mean(dy y)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phi: Tensor, nu: Tensor, eps: float, alpha: float, count: Tensor) -> Tensor:
        scale = (phi + eps).rsqrt().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale, count)
        ctx.nu, ctx.alpha = nu, alpha
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        y, scale, count = ctx.saved_tensors
        nu = ctx.nu.to(y.dtype)
        axes = tuple(range(y.dim() - 1))
        power, taken = y.square().sum(axes) / count, (grad * y).sum(axes) / count
        to_input = (grad - nu * y) * scale
        ctx.nu.copy_(nu * (1 - (1 - ctx.alpha) * power) + (1 - ctx.alpha) * taken)
        return to_input, None, None, None, None, None
