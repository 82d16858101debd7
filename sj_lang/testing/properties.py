"""Measurements of the properties that a paper claims for its neuron; a test asserts them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.compare import whole


def potentials(node: Any, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> Tensor:
    """The membrane potentials [T, B, C, ...] of any `sj_lang.neuron.Node`."""
    kept, node.store_v_seq = node.store_v_seq, True
    try:
        _, _, v = node.advance(x, state, mask, single=False)
    finally:
        node.store_v_seq = kept
    assert isinstance(v, Tensor), "the node returned no potentials with store_v_seq"
    return v


def influence(node: nn.Module, x: Tensor) -> Tensor:
    """[T, T] bool: [t, s] says whether the input at step s has a gradient in the output at step t.

    Lower triangular for a causal node, upper triangular for one that runs backwards, a band for a
    window.
    """
    leaf = x.detach().clone().requires_grad_()
    spikes, _ = whole(node, leaf)
    rows = []
    for output in spikes:
        (gradient,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
        rows.append((gradient != 0).flatten(1).any(1))
    return torch.stack(rows)


def longest_run(spikes: Tensor) -> int:
    """The largest number of consecutive steps at which one neuron fires; spikes [T, ...]."""
    longest = current = torch.zeros_like(spikes[0], dtype=torch.int64)
    for fired in spikes != 0:
        current = (current + 1) * fired
        longest = torch.maximum(longest, current)
    return int(longest.max()) if longest.numel() else 0
