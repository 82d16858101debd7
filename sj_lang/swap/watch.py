"""The example runs, and each node is watched: its inputs, its outputs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang import compat

Example = Tensor | tuple[Any, ...]

_METHODS = ("multi_step_forward", "single_step_forward")
_FEEDERS = (
    *(nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm),
    *(nn.Flatten, nn.Unflatten),
)
_SIZES = ("out_channels", "out_features", "num_features", "num_channels", "normalized_shape")


@dataclass(frozen=True)
class Feeder:
    """The Conv, Linear or norm that ran last before a node, and how many features it makes."""

    name: str
    features: int


@dataclass
class Seen:
    """What one neuron was fed while the example ran, what it returned, and how it was called.

    inputs: the first tensor of each call. names: the keywords by which it was handed over. methods:
    those of `_METHODS` that were called past `forward`. low, high: the range of its output; whole:
    it holds integers only. fired, steps: neuron steps with an output other than 0, and all. other:
    the class of an output that is no tensor. overwritten: the net changed an input in place
    afterwards.
    """

    inputs: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    feeders: list[Feeder | None] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    low: float = 0.0
    high: float = 0.0
    whole: bool = True
    fired: int = 0
    steps: int = 0
    other: str = ""
    inside: bool = False
    overwritten: bool = False

    @property
    def rate(self) -> float:
        return self.fired / max(self.steps, 1)

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any], feeder: Feeder | None) -> None:
        """Note what the node is called with."""
        self.inside = True
        for name, x in ({"": args[0]} if args else kwargs).items():
            if isinstance(x, Tensor):
                self.inputs.append(x)
                self.versions.append(x._version)
                self.names += [name] if name else []
                self.feeders.append(feeder)
                return

    def returned(self, output: Any) -> None:
        """Note what it returned."""
        self.inside = False
        if not isinstance(output, Tensor):
            self.other = type(output).__name__
        elif output.numel():
            self.low, self.high = min(self.low, float(output.min())), max(self.high, float(output.max()))
            self.whole = self.whole and bool((output == output.round()).all())
            self.fired += int((output != 0).sum())
            self.steps += output.numel()


def watch(net: nn.Module, nodes: Mapping[int, nn.Module], example: Example) -> dict[int, Seen]:
    """Run the example once, as `run` does, and watch the nodes, by id."""
    seen = {key: Seen() for key in nodes}
    last: list[Feeder | None] = [None]
    inner = {id(module) for node in nodes.values() for module in node.modules()}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[id(module)].take(args, kwargs, last[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[id(module)].returned(output)

    def fed(module: nn.Module, feeder: Feeder | None) -> Any:
        return module.register_forward_hook(lambda *_: last.__setitem__(0, feeder))

    handles: list[Any] = []
    try:
        for module in nodes.values():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        for name, module in net.named_modules():
            if id(module) not in inner and isinstance(module, _FEEDERS):
                handles.append(fed(module, _feeder(name, module)))
        with _methods_watched(nodes, seen):
            run(net, example)
        for mine in seen.values():
            mine.overwritten = any(x._version != v for x, v in zip(mine.inputs, mine.versions, strict=True))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def run(net: nn.Module, example: Example) -> None:
    """The example in eval mode without gradient, reset before and after; modes are kept."""
    modes = {module: module.training for module in net.modules()}
    try:
        compat.reset(net)
        net.eval()
        with torch.no_grad():
            net(*example) if isinstance(example, tuple) else net(example)
    finally:
        for module, training in modes.items():
            module.training = training
        compat.reset(net)


@contextmanager
def _methods_watched(nodes: Mapping[int, nn.Module], seen: Mapping[int, Seen]) -> Iterator[None]:
    """Inside: notes which nodes are called past their `forward`."""

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


def _feeder(name: str, module: nn.Module) -> Feeder | None:
    """What a module makes; None for Flatten, after which channels are no features of a module."""
    for attribute in _SIZES:
        size = getattr(module, attribute, None)
        if size is not None:
            return Feeder(f"{type(module).__name__} '{name}'", size[-1] if isinstance(size, tuple) else int(size))
    return None
