"""The example runs, and each node is watched: its inputs, its outputs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sj_lang import compat

Example = Tensor | tuple[Any, ...] | list[Any]

_METHODS = ("multi_step_forward", "single_step_forward")
_FEEDERS = (
    *(nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm),
    *(nn.Embedding, nn.Flatten, nn.Unflatten),
)
_SIZES = ("num_features", "num_channels", "normalized_shape")
_MADE = ("out_channels", "out_features", "embedding_dim", *_SIZES)
_TAKEN = ("in_channels", "in_features", *_SIZES)
_RECENT = 6
_ROUNDING = 1e-5  # of the largest value


@dataclass(frozen=True)
class Feeder:
    """A Conv, Linear, norm or embedding that ran near a node. features: how many it makes (after
    the node: takes), on this axis of its output of this shape."""

    name: str
    features: int
    module: nn.Module
    axis: int = -1
    shape: tuple[int, ...] = ()


@dataclass
class Seen:
    """The inputs and outputs of one neuron while the example ran, and how it was called.

    inputs: the first tensor of each call. names: the keywords by which it was handed over.
    keywords: of what was handed over beside a positional input. feeders: the modules that ran
    before each call, the last one first. reader: what ran after it. methods: those of `_METHODS`
    that were called past `forward`. low, high: the range of its output; whole: it holds integers
    only. fired, steps: neuron steps with an output other than 0, and all. other: the class of an
    output that is no tensor. overwritten: the net changed an input in place afterwards. within,
    between: whether the steps of its first input, and its inputs, are all the same.
    """

    inputs: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    keywords: set[str] = field(default_factory=set)
    feeders: list[tuple[Feeder, ...]] = field(default_factory=list)
    reader: Feeder | None = None
    methods: list[str] = field(default_factory=list)
    low: float = 0.0
    high: float = 0.0
    whole: bool = True
    fired: int = 0
    steps: int = 0
    other: str = ""
    inside: bool = False
    overwritten: bool = False
    start: Tensor | None = None
    within: bool = False
    between: bool = True

    @property
    def rate(self) -> float:
        return self.fired / max(self.steps, 1)

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any], feeders: tuple[Feeder, ...]) -> None:
        """Note the arguments of a call."""
        self.inside = True
        self.keywords.update(kwargs if args else ())
        for name, x in ({"": args[0]} if args else kwargs).items():
            if isinstance(x, Tensor):
                if self.start is None:  # a copy, as the net may change its input in place
                    self.start = x.detach().clone()
                    self.within = x.dim() > 0 and _same(x, x[:1])
                else:
                    self.between = self.between and x.shape == self.start.shape and _same(x, self.start)
                self.inputs.append(x)
                self.versions.append(x._version)
                self.names += [name] if name else []
                self.feeders.append(feeders)
                return

    def repeats(self, mode: str) -> int:
        """At how many steps it was fed the same; 0 if its input changes. mode: "" if unknown."""
        single = mode == "s" or (not mode and len(self.inputs) > 1)
        steps = len(self.inputs if single else self.inputs[0])
        return steps if steps > 1 and (self.between if single else self.within) else 0

    def returned(self, output: Any) -> None:
        """Note the output of a call."""
        self.inside = False
        if not isinstance(output, Tensor):
            self.other = type(output).__name__
        elif output.numel():
            self.low, self.high = min(self.low, float(output.min())), max(self.high, float(output.max()))
            self.whole = self.whole and bool((output == output.round()).all())
            self.fired += int((output != 0).sum())
            self.steps += output.numel()


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether both are equal but for rounding: some products round a row by its place."""
    if not (x.numel() and x.is_floating_point()):
        return bool((x == y).all())
    return bool(((x - y).abs() <= _ROUNDING * y.abs().amax()).all())


def watch(net: nn.Module, nodes: Mapping[int, nn.Module], example: Example) -> dict[int, Seen]:
    """Run the example once, like `run`, and watch the nodes, by id."""
    seen = {key: Seen() for key in nodes}
    recent: list[Feeder] = []  # the last one first
    waiting: list[Seen] = []  # for what runs after them
    inner = {id(module) for node in nodes.values() for module in node.modules()}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[id(module)].take(args, kwargs, tuple(recent))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[id(module)].returned(output)
        waiting.append(seen[id(module)])

    def entered(module: nn.Module, args: tuple[Any, ...]) -> None:
        size = _size(module, _TAKEN)
        for mine in waiting:
            if size is not None and mine.reader is None:
                mine.reader = Feeder(f"{type(module).__name__} '{names[module]}'", size, module)
        waiting.clear()

    def left(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        size = _size(module, _MADE)
        if size is None or not isinstance(output, Tensor):  # Flatten: its features are no module's
            recent.clear()
            return
        axis = _feature_axis(module, output)
        feeder = Feeder(f"{type(module).__name__} '{names[module]}'", size, module, axis, tuple(output.shape))
        recent[:] = [feeder, *(one for one in recent if one.module is not module)][:_RECENT]

    handles: list[Any] = []
    try:
        for module in nodes.values():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        names = {module: name for name, module in net.named_modules()}
        for module in names:
            if id(module) not in inner and isinstance(module, _FEEDERS):
                handles.append(module.register_forward_pre_hook(entered))
                handles.append(module.register_forward_hook(left))
        with _methods_watched(nodes, seen):
            run(net, example)
        for mine in seen.values():
            mine.overwritten = any(x._version != v for x, v in zip(mine.inputs, mine.versions, strict=True))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def run(net: nn.Module, example: Example, times: int = 1) -> None:
    """The example in eval mode without gradient, reset before and after; modes are kept.

    A list: one after the other. The network gets copies, as some change their input in place.
    times: without a reset between.
    """
    modes = {module: module.training for module in net.modules()}
    try:
        net.eval()
        for one in example if isinstance(example, list) else [example]:
            compat.reset(net)
            for _ in range(times):
                inputs = tree_map_only(Tensor, Tensor.clone, one)
                with torch.no_grad():
                    net(*inputs) if isinstance(inputs, tuple) else net(inputs)
    finally:
        for module, training in modes.items():
            module.training = training
        compat.reset(net)


@contextmanager
def _methods_watched(nodes: Mapping[int, nn.Module], seen: Mapping[int, Seen]) -> Iterator[None]:
    """Inside, nodes that are called without their `forward` are noted."""

    def watched(module: nn.Module, name: str) -> Callable[..., Any]:
        method, mine = getattr(module, name), seen[id(module)]

        def called(*args: Any, **kwargs: Any) -> Any:
            mine.methods += [] if mine.inside else [name]
            return method(*args, **kwargs)

        return called

    methods = [(module, name) for module in nodes.values() for name in _METHODS if hasattr(module, name)]
    overridden = {(module, name): vars(module)[name] for module, name in methods if name in vars(module)}
    try:
        for module, name in methods:
            vars(module)[name] = watched(module, name)
        yield
    finally:
        for module, name in methods:
            vars(module).pop(name, None)
        for (module, name), method in overridden.items():
            vars(module)[name] = method


def _size(module: nn.Module, attributes: tuple[str, ...]) -> int | None:
    """How many features a module makes, or takes; None for Flatten."""
    sizes = [getattr(module, attribute) for attribute in attributes if getattr(module, attribute, None) is not None]
    return None if not sizes else sizes[0][-1] if isinstance(sizes[0], tuple) else int(sizes[0])


def _feature_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of the features in the output of a module."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return output.dim() - 1 - len(module.kernel_size)
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return 2 if getattr(module, "step_mode", "s") == "m" else 1
    return output.dim() - 1
