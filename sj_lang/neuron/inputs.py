"""Refuses an input, a mask or a state that a node cannot run on, and says what would be right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sj_lang import masks
from sj_lang.masks import State


def _refuse_unfit_mask(name: str, mask: Tensor, x: Tensor, single: bool) -> None:
    """Raise TypeError or ValueError unless a mask is one of x. name: of the node."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: the mask must be bool, True = valid, got {mask.dtype}")
    layout, shape = ("[B]", tuple(x.shape[:1])) if single else ("[T, B]", tuple(x.shape[:2]))
    if mask.shape != shape:
        raise ValueError(f"{name}: the mask {layout} must have shape {shape} for this input, got {tuple(mask.shape)}")
    if mask.device != x.device:
        raise ValueError(f"{name}: the mask is on {mask.device}, the input on {x.device}")


#: what `refuse_unfit` accepted, as it is faster to find it again than to check it again
_FIT: set[tuple[Any, ...]] = set()
_MOST_FIT = 4_096


def _key(node: Any, x: Tensor) -> tuple[Any, ...] | None:
    """What decides whether a node can run on a sequence x; None if more does."""
    if type(x) is Tensor and not (torch.compiler.is_compiling() or torch._C._is_tracing()):
        for parameter in node._parameters.values():
            if parameter is not None:
                return node.axis, node.channels, node.levels, x.shape, x.dtype, x.device, parameter.device
    return None


def refuse_unfit(node: Any, x: Tensor, mask: Tensor | None, single: bool) -> None:
    """Raise TypeError or ValueError unless a node can run on this input."""
    key = None if single or mask is not None else _key(node, x)
    if key in _FIT:
        return
    _refuse_unfit(node, x, mask, single)
    if key is not None:
        if len(_FIT) >= _MOST_FIT:
            _FIT.clear()
        _FIT.add(key)


def _refuse_unfit(node: Any, x: Tensor, mask: Tensor | None, single: bool) -> None:
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
    axis = masks.channel_axis(node, x, single)
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
