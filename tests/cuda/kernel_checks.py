"""The part of the conformance kit that is about a kernel, not about the node around it,
and what its states must do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sj_lang.neuron import Node
from sj_lang.testing.kernels import unwritten_memory_is_nan

KERNEL_CHECKS = (
    "steps_equal_sequence",
    "pieces_equal_whole",
    "padding_is_removal",
    "gradients_are_exact",
    "half_precision",
    "nan_stays_visible",
    "output_is_fully_written",
    "incoming_gradients",
    "large_batches",
    "without_a_graph",
)


def gradients(node: Node, x: Tensor, *outputs: Tensor) -> list[Tensor]:
    """Of x and the parameters, of a functional of the outputs that have one: a count has none."""
    outputs = tuple(y for y in outputs if y.requires_grad)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, [x, *node.parameters()], weights, materialize_grads=True))


def no_state_is_zeros(node: Node, x: Tensor, mask: Tensor | None) -> None:
    """Values and gradients are the same without a state and with zeros; no state is a view."""
    found = []
    for state in (None, node.init_state(x)):
        with unwritten_memory_is_nan():
            spikes, after = node.functional(x, state, mask)
            found.append([spikes, *after.values(), *gradients(node, x, spikes, *after.values())])
        assert all(value._base is None for value in after.values())
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def gradients_go_through_pieces(
    node: Node, x: Tensor, mask: Tensor | None, cuts: Sequence[int], tolerance: float
) -> None:
    """Those of the kernel over pieces of these lengths are those of torch over the whole."""
    found = []
    for backend, sizes in (("torch", (len(x),)), ("cupy", cuts)):
        node.backend = backend
        spikes: list[Tensor] = []
        state, t = None, 0
        with unwritten_memory_is_nan():
            for size in sizes:
                piece = slice(t, t := t + size)
                s, state = node.functional(x[piece], state, None if mask is None else mask[piece])
                spikes.append(s)
            assert state is not None
            found.append(gradients(node, x, torch.cat(spikes), *state.values()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))
