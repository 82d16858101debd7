"""Recurrences in torch's own operators, which `torch.export` and ONNX know."""

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def recurrence(
    step: Callable[..., Tensors], start: Tensors, inputs: Tensors, constants: Tensors = (), *, reverse: bool = False
) -> Tensors:
    """A loop over axis 0 of the inputs: the last states, and the outputs of all steps.

    step: `step(*states, *inputs of a step, *constants)` to new states and outputs, all new memory.
    """
    if reverse:
        inputs = tuple(x.flip(0) for x in inputs)
    results = tuple(torch.ops.higher_order.scan(step, start, inputs, constants))
    states, outputs = results[: len(start)], results[len(start) :]
    return *states, *((x.flip(0) for x in outputs) if reverse else outputs)


def linear(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """`scan_torch` and `scan_numba`: a [T, N] or [1, N], u [T, N], h_0 [N] -> h [T, N]."""

    def step(h: Tensor, a: Tensor, u: Tensor) -> Tensors:
        h = a * h + u
        return h, h.clone()

    _, h = recurrence(step, (h_0,), (a.expand_as(u), u), reverse=reverse)
    return h
