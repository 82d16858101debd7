"""The new node for one place."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sj_lang import compat
from sj_lang.build import Make
from sj_lang.compat import OldNode
from sj_lang.component import schema
from sj_lang.errors import PluginError, UserError
from sj_lang.swap.axis import Marks, channels_of
from sj_lang.swap.mode import step_mode
from sj_lang.swap.reasons import reason_of_call, reason_of_mode, reason_of_threshold, reason_of_use
from sj_lang.swap.report import SwapPlace
from sj_lang.swap.response import measured
from sj_lang.swap.watch import Seen

_HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook"),
)


def modules_of(chosen: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The arguments whose values cannot stand in a recipe."""
    return {name: value for name, value in chosen.items() if isinstance(value, nn.Module)}


@dataclass(frozen=True)
class Old:
    """A node that is to be replaced. pristine: a copy, made before the example ran. seen: while it
    ran. steady: while all nodes fired at random; None if that failed. still: whether some node was
    fed the same at each step then."""

    node: nn.Module
    pristine: nn.Module
    seen: Seen
    steady: Seen | None
    still: bool

    def facts(self, mode: str) -> OldNode:
        """The properties that decide when it fires."""
        leak, gain = compat.leak_and_gain(self.node)
        threshold = getattr(self.node, "v_threshold", None)
        threshold = threshold if isinstance(threshold, float) else None
        seen = self.seen
        if leak is None:
            leak, fires_at = measured(self.pristine, seen.inputs[0], seen.names[0] if seen.names else "", mode)
            if leak is not None:
                threshold = threshold or fires_at
                gain = threshold / fires_at
        return OldNode(
            surrogate_function=getattr(self.node, "surrogate_function", None),
            v_threshold=threshold,
            leak=leak,
            gain=gain,
            constant=bool(seen.repeats(mode)),
            repeated=self.steady.repeats(mode) if self.steady and self.steady.inputs else 0,
            still=self.still,
        )


def replacement(
    net: nn.Module,
    name: str,
    replaced: Old,
    make: Make,
    chosen: Mapping[str, Any],
    asked: str | None,
    axis: int | None,
    marks: Marks,
) -> tuple[SwapPlace, nn.Module | None]:
    """The new node, or None and the reason. It has its own copies of modules among its arguments.

    replaced: the old node. chosen: what the user asked for. asked: the step mode of classes that do
    not say theirs. axis: of the channels; None: find it.
    """
    old, pristine, seen = replaced.node, replaced.pristine, replaced.seen
    was = type(old).__name__

    def left(reason: str) -> tuple[SwapPlace, None]:
        return SwapPlace(name, was, reason=reason), None

    if reason := reason_of_call(net, name, seen) or reason_of_threshold(old):
        return left(reason)
    mode, reason = step_mode(pristine, seen.inputs[0], seen.names[0] if seen.names else "", asked)
    if reason or (reason := reason_of_mode(mode, make)):
        return left(reason)
    channels = channels_of(seen, mode, axis, marks.of(old, mode))
    if channels.reason:
        return left(channels.reason)
    try:
        facts = replaced.facts(mode)
        node, choices, note = _made(name, facts, channels.size, make, chosen)
    except (ValueError, PluginError) as error:
        return left(f"the new node refuses what decides when the old one fires: {error}")
    if reason := reason_of_use(seen, node):
        return left(reason)
    if channels.axis != 2:
        if not hasattr(node, "axis"):
            return left(f"{channels.why} are its axis {channels.axis}, and {type(node).__name__} has them on axis 2")
        node.axis = channels.axis
    unknown = [keyword for keyword in seen.names if keyword not in inspect.signature(type(node).forward).parameters]
    if unknown:
        return left(f"the net hands it its input by name, {unknown[0]}=, which {type(node).__name__} does not take")
    _settle(node, old, net, seen.inputs[0], mode)
    if seen.overwritten and hasattr(node, "copies_input"):
        node.copies_input = True
    notes = "; ".join(filter(None, (channels.note, note)))
    now = type(node).__name__
    where = (channels.size, channels.axis, channels.why)
    return SwapPlace(name, was, now, *where, note=notes, repeated=facts.repeated, choices=choices), node


def _made(
    name: str, facts: OldNode, channels: int, make: Make, chosen: Mapping[str, Any]
) -> tuple[Any, dict[str, str], str]:
    """The new node with what it can keep of the old one, the kinds that its class chose here, and
    a note about what it cannot keep."""
    arguments = {"channels": channels, **copy.deepcopy(modules_of(chosen))}
    asked_for = dict(arguments)
    fitting: dict[str, Any] = {}
    try:
        if hasattr(make.target, "in_place_of"):
            fitting = make.target.in_place_of(facts, chosen)
        arguments |= fitting
        node = make(**arguments)
        carried, note = _carried(facts, node, chosen, {**chosen, **arguments})
        choices = {argument: value for argument, value in fitting.items() if isinstance(value, str)}
        return (make(**arguments, **carried) if carried else node), choices, note
    except (ValueError, PluginError):
        try:
            make(**asked_for)
        except ValueError as wrong:  # the user's arguments alone are refused
            raise UserError(f"swap: place '{name}': {wrong}") from wrong
        raise


def _settle(node: nn.Module, old: nn.Module, net: nn.Module, x: Tensor, mode: str) -> None:
    """Give the new node the device, the dtype, the mode and the hooks of the old one."""
    parameters = (*old.parameters(), *(p for p in net.parameters() if p.is_floating_point()))
    node.to(device=x.device, dtype=parameters[0].dtype if parameters else x.dtype)
    node.step_mode = mode  # type: ignore[assignment]
    node.train(old.training)
    if getattr(old, "store_v_seq", False) and hasattr(node, "store_v_seq"):
        node.store_v_seq = True  # type: ignore[assignment]
    for name in _HOOKS:  # the very objects: the handles that remove hooks stay good
        setattr(node, name, getattr(old, name) or getattr(node, name))


def _carried(
    old: OldNode, node: nn.Module, users: Mapping[str, Any], chosen: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Options with the same meaning in the new node: surrogate and threshold of a binary Heaviside.

    users: the arguments that the user chose. chosen: all so far.
    """
    target: Any = type(node)
    accepted = schema.arguments("neuron", target)
    surrogate = old.surrogate_function
    if surrogate is None or "surrogate_function" not in accepted or "surrogate_function" in chosen:
        return {}, ""
    if getattr(node, "levels", 1) != 1:
        return {}, f"{type(surrogate).__name__} not kept: it fires integers"
    scale = 1.0
    if old.v_threshold and "v_threshold" not in users:
        scale = chosen.get("v_threshold", old.v_threshold) / old.v_threshold
    carried: dict[str, Any] = {"surrogate_function": compat.rescaled(surrogate, scale)}
    if old.v_threshold is not None and "v_threshold" in accepted and "v_threshold" not in chosen:
        carried["v_threshold"] = old.v_threshold
    return carried, ""
