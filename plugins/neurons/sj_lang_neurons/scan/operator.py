"""Fake outputs and gradient of a linear recurrence, the same for every backend."""

from typing import Any

import torch
from torch import Tensor

from sj_lang_neurons.scan.decomposition import linear


def complete(scan: Any, backward: Any) -> None:
    """Register them for `scan(a, u, h_0, reverse)` and `backward(grad, a, h, h_0, reverse)`."""

    def like(x: Tensor) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    def keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        a, _, h_0, ctx.reverse = inputs
        ctx.save_for_backward(a, output, h_0)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        a, h, h_0 = ctx.saved_tensors
        return *backward(grad, a, h, h_0, ctx.reverse), None

    scan.register_decomposition(linear)
    scan.register_fake(lambda a, u, h_0, reverse: like(u))
    backward.register_fake(lambda grad, a, h, h_0, reverse: (like(a), like(h), like(h_0)))
    scan.register_autograd(differentiate, setup_context=keep)
