"""What is under test: how to build the node, what it declares, and the inputs it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sj_lang.errors import choices
from sj_lang.masks import State

Reference: TypeAlias = Callable[[nn.Module, Tensor, State | None], tuple[Tensor, State]]

GAINS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class Traits:
    """The declaration in a node's registration; see `sj_lang.hookspecs.Register.neuron`."""

    causal: bool
    steps: bool
    carries_state: bool
    takes_mask: bool
    any_length: bool

    @classmethod
    def of(cls, source: Any) -> Traits:
        """The traits of a Traits, a registration, a `make` with `traits`, or a mapping of flags."""
        if isinstance(source, cls):
            return source
        flags = source if isinstance(source, Mapping) else getattr(source, "traits", None)
        if isinstance(flags, cls):
            return flags
        names = [f.name for f in fields(cls)]
        for name, value in flags.items() if isinstance(flags, Mapping) else ():
            if name not in (*names, "parameters_per_channel"):  # a registration has it
                raise TypeError(f"traits: no trait {name!r}; {choices(str(name), names)}")
            if name in names and not isinstance(value, bool):
                raise TypeError(f"traits: {name} is {value!r}, it must be True or False")
        if not isinstance(flags, Mapping) or not set(names) <= set(flags):
            raise TypeError(f"traits: a mapping of {', '.join(names)}, a registration, or a make with .traits")
        return cls(**{name: flags[name] for name in names})


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A node to be checked.

    make: `make(channels=C)` returns a fresh node in step_mode "m".
    traits: what it declares.
    backend: set on the node before use; None leaves the node as it is built.
    device: where node and inputs live.
    dtype: of parameters, inputs and states; float64 or float32.
    channels: C of `[T, B, C, ...]`; inputs have it on the node's `axis`, if that is negative.
    length: the one T that a node without `any_length` takes; others are tried at several.
    inputs: shape -> float64 tensor, if noise of a suitable size will not do.
    reference: `reference(node, x, state) -> (spikes, state)`, an independent implementation of the
        equations.
    smooth: `smooth(node)` makes the firing differentiable, if `set_spiking_mode(False)` does not.
    ops: backend -> names of the custom operators that it must call, such as {"torch":
        ["sj_lang::scan"]}.
    compilers: backends of torch.compile to try.
    jitter: standard deviation of the noise added to every parameter, so that a zero hides nothing.
    margin: two runs in float32 may differ in a spike where an input change of this relative size
        changes it too; in float64 the margin is 1e-5 of it.
    flips: the largest fraction of spikes that may differ so.
    """

    make: Callable[..., nn.Module]
    traits: Traits
    backend: str | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    channels: int = 5
    length: int | None = None
    inputs: Callable[[tuple[int, ...]], Tensor] | None = None
    reference: Reference | None = None
    smooth: Callable[[nn.Module], None] | None = None
    ops: Mapping[str, list[str]] = field(default_factory=dict)
    compilers: tuple[str, ...] = ("aot_eager",)
    jitter: float = 0.1
    margin: float = 1e-5
    flips: float = 1e-3

    def __post_init__(self) -> None:
        if self.traits.any_length == (self.length is not None):
            raise TypeError("length: give the node's T if any_length is not declared, and only then")
        if isinstance(self.compilers, str):
            raise TypeError(f"compilers: expected a list, such as compilers=[{self.compilers!r}]")

    def __str__(self) -> str:
        backend = "" if self.backend is None else f"backend {self.backend}, "
        return f"{backend}{self.device}, {str(self.dtype).removeprefix('torch.')}"

    def at(self, dtype: torch.dtype) -> Subject:
        """The same node in another precision."""
        return replace(self, dtype=dtype)

    def node(self, seed: int = 0, jitter: bool = True) -> nn.Module:
        """Build the node of a seed, in multi-step mode, its parameters moved off special values."""
        with torch.random.fork_rng(devices=[]):
            _seed(seed)
            node = self.make(channels=self.channels)
            if jitter:
                with torch.no_grad():
                    for parameter in node.parameters():
                        parameter.add_(self.jitter * torch.randn_like(parameter))
        node = node.to(device=self.device, dtype=self.dtype)
        if self.backend is not None:
            node.backend = self.backend  # type: ignore[assignment]
        node.step_mode = "m"  # type: ignore[assignment]
        return node

    def steps(self, length: int = 7) -> int:
        """A sequence length: this one, or the only one that the node takes."""
        return length if self.length is None else self.length

    def x(self, length: int = 7, batch: int = 3, *trailing: int, seed: int = 0) -> Tensor:
        """Input currents [T, B, C, ...] under which the node both fires and is silent."""
        shape = [self.steps(length), batch, *trailing]
        shape.insert(self.axis if self.axis > 0 else len(shape) + 1 + self.axis, self.channels)
        return self._noise(tuple(shape), seed) * (1.0 if self.inputs else self.gain)

    def state(self, node: nn.Module, x: Tensor) -> State:
        """A state that the node may be in, for x's batch: after a few steps of other input."""
        if not self.traits.carries_state:
            return {}
        with torch.no_grad():
            batch = list(x.shape[1:])
            del batch[self.axis - 1 if self.axis > 0 else self.axis]
            warm = self.x(3, *batch, seed=99)
            _, state = node.functional(warm)  # type: ignore[operator]
        return {name: value.clone() for name, value in state.items()}

    def gaps(self, length: int, batch: int) -> Tensor:
        """A mask [T, B] with one masked step between valid ones in each row, in turn."""
        hole = 1 + torch.arange(batch, device=self.device) % (length - 2)
        return torch.arange(length, device=self.device)[:, None] != hole

    def smoothen(self, node: nn.Module) -> None:
        """Replace the firing by its smooth form."""
        if self.smooth is not None:
            self.smooth(node)
            return
        firing = [part for part in node.modules() if hasattr(part, "set_spiking_mode")]
        assert firing, "nothing in the node has set_spiking_mode, the switch to a smooth form: hand in smooth="
        for part in firing:
            part.set_spiking_mode(False)  # type: ignore[operator]

    @cached_property
    def axis(self) -> int:
        """Of the channels in the node's inputs."""
        with torch.random.fork_rng(devices=[]):
            return getattr(self.make(channels=self.channels), "axis", 2)

    @cached_property
    def gain(self) -> float:
        """The size of input at which the node fires sometimes, and not always."""
        node = self.at(torch.float64).node()
        rates = {}
        for gain in GAINS:
            with torch.no_grad():
                spikes, _ = node.functional(self._noise((self.steps(), 8, self.channels), 0).double() * gain)  # type: ignore[operator]
            rates[gain] = float((spikes > 0).double().mean())
            if 0.1 < rates[gain] < 0.9:
                return gain
        best = min(rates, key=lambda gain: abs(rates[gain] - 0.5))
        assert 0.0 < rates[best] < 1.0, f"the node fires at {rates} (input size: rate); hand in inputs that move it"
        return best

    def _noise(self, shape: tuple[int, ...], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
        if self.inputs:
            with torch.random.fork_rng(devices=[]):
                _seed(1000 * seed + sum(shape))
                values = self.inputs(shape)
        else:
            values = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5
        return values.to(device=self.device, dtype=self.dtype)


def _seed(seed: int) -> None:
    """Seed the CPU's generator, which is forked; `torch.manual_seed` also keeps stack traces."""
    torch.default_generator.manual_seed(seed)
