"""Masked steps are removed before a node runs, and are zeros afterwards.

Axes between batch and channels are folded into the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: the state of a node: tensors by name, the batch on axis 0
State = dict[str, Tensor]


def step(
    run: Callable[[Tensor, State], tuple[Tensor, State, Tensor]], x: Tensor, state: State, mask: Tensor
) -> tuple[Tensor, State, Tensor]:
    """`run(x, state)`; sequences that mask [B] leaves out fire 0 and keep their state."""
    spikes, after, v = run(_zero(x, mask), state)
    return _zero(spikes, mask), choose(mask, after, state), _zero(v, mask)


def sequence(
    run: Callable[[Tensor, State, Tensor | None], tuple[Tensor, State, Tensor | None]],
    x: Tensor,
    state: State,
    mask: Tensor,
) -> tuple[Tensor, State, Tensor | None]:
    """`run(x, state, lengths)` on the steps that mask [T, B] leaves in, moved to the front."""
    look = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if look and bool(mask.all()):
        return run(x, state, None)
    if look and not bool((mask[1:] & ~mask[:-1]).any()):  # they are there already
        spikes, after, v = run(_zero(x, mask), state, mask.sum(0))
        return _zero(spikes, mask), after, None if v is None else _zero(v, mask)
    valid_first, back = orders(mask, 0)
    spikes, after, v = run(_reorder(_zero(x, mask), valid_first), state, mask.sum(0))
    potentials = None if v is None else _zero(_reorder(v, back), mask)
    return _zero(_reorder(spikes, back), mask), after, potentials


def spread(mask: Tensor, places: torch.Size) -> Tensor:
    """A mask [T, B] or [B] for rows [T, B, *places] or [B, *places] as one axis."""
    return mask.view(*mask.shape, *(1,) * len(places)).expand(*mask.shape, *places).flatten(mask.dim() - 1)


def _over(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


def _zero(x: Tensor, mask: Tensor) -> Tensor:
    """x with 0 at masked steps, in the gradient too, NaN or not."""
    return x.masked_fill(~_over(mask, x), 0)


def choose(mask: Tensor, after: State, before: State) -> State:
    return {name: torch.where(_over(mask, after[name]), after[name], before[name]) for name in after}


def channel_axis(node: Any, x: Tensor, single: bool) -> int:
    """The axis of the channels in a step or a sequence x of a node: its `axis`, or 2."""
    axis: int = getattr(node, "axis", 2)
    return axis + x.dim() if axis < 0 else axis - int(single)


def unfolded(state: State, between: torch.Size | None) -> State:
    """A state with the axes of the batch apart again; no views, as `detach_net` fails on them."""
    return {name: torch.unflatten(value, 0, between).clone() if between else value for name, value in state.items()}


def orders(mask: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The order along an axis that puts what is valid first, and its inverse; both keep orders."""
    valid, rest = mask.cumsum(axis), (~mask).cumsum(axis)
    back = torch.where(mask, valid, valid.narrow(axis, -1, 1) + rest) - 1
    places = torch.arange(mask.shape[axis], device=mask.device)
    places = places.view(-1, *(1,) * (mask.dim() - 1 - axis)).expand_as(mask)
    return torch.zeros_like(back).scatter(axis, back, places), back


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """x [T, B, ...] with the steps of each sequence in another order."""
    rows = order * order.shape[1] + torch.arange(order.shape[1], device=order.device)
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(x.shape)
