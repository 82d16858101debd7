"""Replace the spiking neurons of a network that exists: `swap(net, "dsn", example=x)`.

One line in code that already trains with SpikingJelly; everything else of it stays as it was.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang import compat
from sj_lang.build import Make, part
from sj_lang.component import schema
from sj_lang.errors import PluginError, UserError
from sj_lang.swap.report import SwapPlace, SwapReport

_METHODS = ("multi_step_forward", "single_step_forward")
_HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook"),
)


@dataclass
class _Seen:
    """What one neuron was fed while the example ran, and how it was called.

    names: the keywords by which it was handed its input. methods: those of `_METHODS` that were
    called past `forward`.
    """

    inputs: list[tuple[tuple[int, ...], torch.dtype, torch.device]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    inside: bool = False


def swap(
    net: nn.Module,
    neuron: str | Mapping[str, Any],
    *,
    example: Tensor | tuple[Any, ...],
    of: type[nn.Module] | Iterable[type[nn.Module]] | None = None,
    like: str | None = None,
    **options: Any,
) -> SwapReport:
    """Replace neurons of `net` in place and report each of them.

    neuron: registered name, with `options` as its arguments (`sj-lang plugins neuron` lists both);
        a surrogate may also be a module.
    example: an input of the network (a tuple: positional arguments). It runs once, without gradient
        and in eval mode, to find the channel count of each place, which the old nodes do not know.
        The network is reset before and after.
    of: classes to replace; by default every integrate-and-fire and parallel spiking node of
        SpikingJelly.
    like: regular expression, searched in the place's name in `net.named_modules()`.

    Kept from the old node: step mode, train / eval, device, dtype of the parameters (its own, or
    those of the network), `store_v_seq`, hooks of its forward and backward; surrogate function and
    threshold if the new node is binary and has such arguments. A place that cannot be swapped stays
    as it was and is in `report.left` with its reason.

    Only registered modules are replaced, those of `net.named_modules()`. A node that the net also
    holds elsewhere, such as in a plain list, is not replaced there.

    Raises UserError for an unknown neuron or option, a value that the neuron refuses, an `of` that
    is no class, a `like` that is no regular expression or matches nothing, or a net without such
    neurons; the net is then as it was.
    """
    classes = compat.node_classes() if of is None else _classes(of)
    if not isinstance(neuron, str | Mapping):
        raise UserError(f"swap: neuron={neuron!r}; expected a registered name, such as 'dsn', or a mapping with 'type'")
    chosen = {"type": neuron, **options} if isinstance(neuron, str) else {**neuron, **options}
    modules = _modules(chosen)
    make = part("neuron", {name: value for name, value in chosen.items() if name not in modules})
    if modules.keys() - schema.arguments("neuron", make.target).keys():
        part("neuron", chosen)  # says which argument there is not
    neurons = _find(net, classes, like)
    seen = _watch(net, {id(module): module for _, module in neurons}, example)
    fresh: dict[int, SwapPlace] = {}
    nodes: dict[int, nn.Module] = {}
    places: list[SwapPlace] = []
    for name, old in neurons:
        if id(old) not in fresh:
            fresh[id(old)], node = _replacement(net, name, old, seen[id(old)], make, chosen)
            if node is not None:
                nodes[id(old)] = node
        places.append(replace(fresh[id(old)], name=name))
    for name, old in neurons:  # after all are built: a refused call changes nothing
        if id(old) in nodes:
            parent, _, attribute = name.rpartition(".")
            setattr(net.get_submodule(parent), attribute, nodes[id(old)])
    compat.forget_reset_cache(net)
    return SwapReport(tuple(places))


def _modules(chosen: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The arguments that no recipe could hold."""
    return {name: value for name, value in chosen.items() if isinstance(value, nn.Module)}


def _classes(of: Any) -> tuple[type[nn.Module], ...]:
    classes = tuple(of) if isinstance(of, Iterable) and not isinstance(of, str) else (of,)
    wrong = [one for one in classes if not isinstance(one, type)]
    if wrong or not classes:
        raise UserError(f"swap: of={of!r}; expected a class, such as neuron.LIFNode, or several")
    return classes


def _find(net: nn.Module, classes: tuple[type[nn.Module], ...], like: str | None) -> list[tuple[str, nn.Module]]:
    """The neurons of these classes by name; a module in two places is listed twice."""
    if isinstance(net, classes):
        raise UserError(f"swap: the network itself is a {type(net).__name__}; build the new node instead")
    neurons = [
        (name, module) for name, module in net.named_modules(remove_duplicate=False) if isinstance(module, classes)
    ]
    inner = [f"{name}." for name, _ in neurons]
    neurons = [(name, module) for name, module in neurons if not name.startswith(tuple(inner))]
    names = ", ".join(sorted({c.__name__ for c in classes}))
    if not neurons:
        raise UserError(f"swap: {type(net).__name__} has no neuron of {names}")
    if like is not None:
        try:
            pattern = re.compile(like)
        except (re.error, TypeError) as error:
            raise UserError(f"swap: like={like!r} is no regular expression: {error}") from error
        chosen = [(name, module) for name, module in neurons if pattern.search(name)]
        if not chosen:
            raise UserError(f"swap: like={like!r} matches none of: {', '.join(name for name, _ in neurons)}")
        return chosen
    return neurons


def _watch(net: nn.Module, nodes: Mapping[int, nn.Module], example: Tensor | tuple[Any, ...]) -> dict[int, _Seen]:
    """Run the example once and note the inputs of each node, and how it was called."""
    seen = {key: _Seen() for key in nodes}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mine = seen[id(module)]
        mine.inside = True
        inputs = {"": args[0]} if args else kwargs
        for name, x in [(name, x) for name, x in inputs.items() if isinstance(x, Tensor)][:1]:
            mine.inputs.append((tuple(x.shape), x.dtype, x.device))
            mine.names += [name] if name else []

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[id(module)].inside = False

    def watched(module: nn.Module, name: str) -> Callable[..., Any]:
        method, mine = getattr(module, name), seen[id(module)]

        def called(*args: Any, **kwargs: Any) -> Any:
            mine.methods += [] if mine.inside else [name]
            return method(*args, **kwargs)

        return called

    handles: list[Any] = []
    methods = [(module, name) for module in nodes.values() for name in _METHODS if hasattr(module, name)]
    overridden = {(module, name): vars(module)[name] for module, name in methods if name in vars(module)}
    modes = {module: module.training for module in net.modules()}
    try:
        for module in nodes.values():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        for module, name in methods:
            vars(module)[name] = watched(module, name)
        compat.reset(net)
        net.eval()
        with torch.no_grad():
            net(*example) if isinstance(example, tuple) else net(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, name in methods:
            vars(module).pop(name, None)
        for (module, name), method in overridden.items():
            vars(module)[name] = method
        for module, training in modes.items():
            module.training = training
        compat.reset(net)
    return seen


def _replacement(
    net: nn.Module, name: str, old: nn.Module, seen: _Seen, make: Make, chosen: Mapping[str, Any]
) -> tuple[SwapPlace, nn.Module | None]:
    """The new node for one place, or None and the reason. It has its own copies of modules among its arguments."""
    was = type(old).__name__
    reason = _reason_to_leave(net, name, old, seen, make)
    if reason:
        return SwapPlace(name, was, reason=reason), None
    channels = seen.inputs[0][0][_channel_axis(old)]
    arguments = {"channels": channels, **copy.deepcopy(_modules(chosen))}
    try:
        node = make(**arguments)
    except ValueError as error:
        raise UserError(f"swap: place '{name}': {error}") from error
    carried, note = _carried(old, node, chosen)
    try:
        node = make(**arguments, **carried) if carried else node
    except (ValueError, PluginError) as error:
        reason = f"the new node refuses what decides when the old one fires: {error}"
        return SwapPlace(name, was, reason=reason), None
    unknown = [name for name in seen.names if name not in inspect.signature(type(node).forward).parameters]
    if unknown:
        reason = f"the net hands it its input by name, {unknown[0]}=, which {type(node).__name__} does not take"
        return SwapPlace(name, was, reason=reason), None
    _, dtype, device = seen.inputs[0]
    parameters = (*old.parameters(), *(p for p in net.parameters() if p.is_floating_point()))
    node = node.to(device=device, dtype=parameters[0].dtype if parameters else dtype)
    _settle(node, old)
    return SwapPlace(name, was, type(node).__name__, channels, note=note), node


def _channel_axis(old: nn.Module) -> int:
    return 2 if getattr(old, "step_mode", "m") == "m" else 1


def _reason_to_leave(net: nn.Module, name: str, old: nn.Module, seen: _Seen, make: Make) -> str:
    """Why no new node can stand in this place; "" if one can."""
    axis = _channel_axis(old)
    for container_name, container in _parents(net, name):
        if isinstance(container, compat.recurrent_containers()):
            return f"in the recurrent {type(container).__name__} '{container_name}' its output is fed back to it"
    if seen.methods:
        return f"the net calls its {seen.methods[0]} or forward, and not the node itself"
    if not seen.inputs:
        return "the example did not reach it"
    shapes = [shape for shape, _, _ in seen.inputs]
    flat = [shape for shape in shapes if len(shape) <= axis]
    if flat:
        return f"its input {list(flat[0])} has no channel axis ({'[T, B, C, ...]' if axis == 2 else '[B, C, ...]'})"
    channels = {shape[axis] for shape in shapes}
    if len(channels) > 1:
        return f"it was fed {' and '.join(map(str, sorted(channels)))} channels"
    if axis == 1 and not make.traits["steps"]:
        return f"it runs step by step, and {make.name} has no single-step mode"
    return ""


def _settle(node: nn.Module, old: nn.Module) -> None:
    """Give the new node the mode and the hooks of the old one."""
    node.step_mode = getattr(old, "step_mode", "m")  # type: ignore[arg-type]
    node.train(old.training)
    if getattr(old, "store_v_seq", False) and hasattr(node, "store_v_seq"):
        node.store_v_seq = True  # type: ignore[assignment]
    for name in _HOOKS:  # the very objects, so that the handles by which hooks are removed stay good
        setattr(node, name, getattr(old, name) or getattr(node, name))


def _carried(old: nn.Module, node: nn.Module, chosen: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What of the old node's firing means the same in the new one: surrogate and threshold of a binary Heaviside."""
    target: Any = type(node)
    accepted = schema.arguments("neuron", target)
    surrogate = getattr(old, "surrogate_function", None)
    threshold = getattr(old, "v_threshold", None)
    if surrogate is None or "surrogate_function" not in accepted or "surrogate_function" in chosen:
        return {}, ""
    if getattr(node, "levels", 1) != 1:
        return {}, f"{type(surrogate).__name__} not kept: it fires integers"
    carried: dict[str, Any] = {"surrogate_function": surrogate}
    if isinstance(threshold, float) and "v_threshold" in accepted and "v_threshold" not in chosen:
        carried["v_threshold"] = threshold
    return carried, ""


def _parents(net: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The modules around a place, outermost first."""
    parts = name.split(".")[:-1]
    return [(".".join(parts[: i + 1]), net.get_submodule(".".join(parts[: i + 1]))) for i in range(len(parts))]
