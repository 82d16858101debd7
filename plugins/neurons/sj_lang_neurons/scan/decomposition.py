"""Recurrences in torch's own operators, which `torch.export` and ONNX know."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops import scan

Tensors = tuple[Tensor, ...]


def recurrence(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], start: Tensors, inputs: Tensors, *, reverse: bool
) -> tuple[Tensors, Tensors]:
    """`step(states, inputs of a step) -> (states, outputs)` over axis 0 of the inputs, in a loop.

    Returns the last states, and the outputs of all steps. What a step returns is new memory.
    """
    return scan(step, start, inputs, reverse=reverse)  # type: ignore[no-any-return]


def linear(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """`scan_torch` and `scan_numba`: a [T, N] or [1, N], u [T, N], h_0 [N] -> h [T, N]."""

    def step(states: Tensors, inputs: Tensors) -> tuple[Tensors, Tensors]:
        (h,), (a_t, u_t) = states, inputs
        h = a_t * h + u_t
        return (h,), (h.clone(),)

    _, (h,) = recurrence(step, (h_0,), (a.expand_as(u), u), reverse=reverse)
    return h
