"""Fake outputs and gradient of DSN's operators on columns, the same for both CPU backends."""

from typing import Any

import torch
from torch import Tensor

from sj_lang.operators import gradients, keep_with_last_result, kept
from sj_lang_neurons.dsn.inputs import DSNColumns


def borders_of(x: Tensor, size: int) -> Tensor:
    """Memory for the potentials before blocks of so many steps of x [T, N].

    It has a row of zeros to spare, as `torch.export` would fix the number of steps if there could
    be one.
    """
    steps, width = x.shape
    borders = x.new_empty((steps - 1) // size + 2, width)
    borders[-1] = 0
    return borders


def complete(forward: Any, backward: Any) -> None:
    """Register them. `forward(flat, ...)` returns spikes, last potential, those before blocks.

    `backward(grad, grad_last, borders, flat, ...)` returns the gradients of x, tail, h_0, weight
    and bias.
    """

    def differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (borders,), flat = kept(ctx, DSNColumns)
        x, tail, h_0, weight, bias = backward(grad, grad_last, borders, flat, *ctx.rest)
        return gradients(ctx, DSNColumns, x=x, tail=tail, h_0=h_0, weight=weight, bias=bias)

    backward.register_fake(lambda grad, grad_last, borders, flat, *_: tuple(map(torch.empty_like, flat[:5])))
    forward.register_autograd(differentiate, setup_context=keep_with_last_result)
