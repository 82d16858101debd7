"""Checks and prepares the input of a node before it runs, and puts its results back.

Masked steps are removed, and are zeros afterwards. Axes between batch and channels are folded into
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: the state of a node: tensors by name, the batch on axis 0
State = dict[str, Tensor]


def _refuse_unfit_mask(name: str, mask: Tensor, x: Tensor, single: bool) -> None:
    """Raise TypeError or ValueError unless a mask is one of x. name: of the node."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: the mask must be bool, True = valid, got {mask.dtype}")
    layout, shape = ("[B]", tuple(x.shape[:1])) if single else ("[T, B]", tuple(x.shape[:2]))
    if mask.shape != shape:
        raise ValueError(f"{name}: the mask {layout} must have shape {shape} for this input, got {tuple(mask.shape)}")
    if mask.device != x.device:
        raise ValueError(f"{name}: the mask is on {mask.device}, the input on {x.device}")


def refuse_unfit(node: Any, x: Tensor, mask: Tensor | None, single: bool) -> None:
    """Raise TypeError or ValueError unless a node can run on this input."""
    name = type(node).__name__
    if single:
        node.possible_mode(node.step_mode)
    layout = "[B, C, ...]" if single else "[T, B, C, ...]"
    if node.axis != 2:
        layout = f"{'a step of ' if single else ''}[T, B, ...] with the channels on axis {node.axis}"
    for what, value in (("input", x), ("mask", mask)):
        if not (isinstance(value, Tensor) or (what == "mask" and value is None)):
            raise TypeError(f"{name}: the {what} must be a tensor, got {type(value).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: the input must be floating point, got {x.dtype}")
    axis = channel_axis(node, x, single)
    if not (1 if single else 2) <= axis < x.dim():
        mode = "s" if single else "m"
        raise ValueError(f'{name}: in step_mode "{mode}" the input is {layout}, got shape {tuple(x.shape)}')
    if x.shape[axis] != node.channels:
        raise ValueError(
            f"{name}: built for {node.channels} channels, the input {layout} has {x.shape[axis]}: {tuple(x.shape)}"
        )
    parameters = [p for p in node._parameters.values() if p is not None]  # faster: no recursion
    for parameter in parameters or node.parameters():
        if parameter.device != x.device:
            raise ValueError(f"{name}: the parameters are on {parameter.device}, the input on {x.device}")
        break
    if node.levels > 2 / torch.finfo(x.dtype).eps:
        raise ValueError(f"{name}: spikes up to {node.levels} are not exact in {x.dtype}; use a wider dtype")
    if not single and x.shape[0] == 0:
        raise ValueError(f"{name}: the sequence has no steps, T = 0: {tuple(x.shape)}")
    if mask is not None:
        _refuse_unfit_mask(name, mask, x, single)


def folded_state(node: Any, state: State, x: Tensor, shape: torch.Size, lead: torch.Size, dtype: torch.dtype) -> State:
    """A node's state, checked, with the axes before the channels as the batch.

    lead: these axes, which x and shape have folded.
    """
    name = type(node).__name__
    shapes = {key: (*lead, *size[1:]) for key, size in node.state_shapes(shape).items()}
    if not isinstance(state, dict):
        raise TypeError(f"{name}: the state must be a dict of tensors, got {type(state).__name__}")
    if set(state) != set(shapes):
        raise ValueError(f"{name}: the state has {sorted(state)}, it must have {sorted(shapes)}")
    for key, size in shapes.items():
        value = state[key]
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name}: the state {key!r} must be a floating-point tensor, got {what}")
        if value.dim() and value.shape[0] != lead[0]:
            raise ValueError(
                f"{name}: the state {key!r} is of batch size {value.shape[0]}, the input of {lead[0]}; "
                "reset the node (functional.reset_net) or pick the state's rows"
            )
        if value.shape != size:
            raise ValueError(f"{name}: the state {key!r} must have shape {size}, got {tuple(value.shape)}")
        if not torch.compiler.is_compiling() and value.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"{name}: the state {key!r} was made in torch.inference_mode(), and nothing can be learned "
                "from it; reset the node (functional.reset_net)"
            )
        if value.device != x.device:
            raise ValueError(f"{name}: the state {key!r} is on {value.device}, the input on {x.device}")
    return {key: state[key].flatten(0, len(lead) - 1).to(dtype) for key in shapes}


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
