"""What differs between SpikingJelly's release lines 0.0.0.0.14 and 2.x, in this file alone."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sj_lang.errors import choices

_CLOCK_DRIVEN = "spikingjelly.clock_driven.neuron"

SURROGATES = (
    "ATan",
    "Erf",
    "FakeNumericalGradient",
    "LeakyKReLU",
    "LogTailedReLU",
    "NonzeroSignLogAbs",
    "PiecewiseExp",
    "PiecewiseLeakyReLU",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "S2NN",
    "Sigmoid",
    "SoftSign",
    "SquarewaveFourierSeries",
    "SuperSpike",
)
#: surrogates in which x and alpha only occur as a product, apart from a factor of the gradient
_WIDTHS = ("ATan", "Erf", "PiecewiseExp", "PiecewiseQuadratic", "Sigmoid", "SoftSign")


def why_no_psn() -> str:
    """Why the PSN family is not available; "" if it is. Imports nothing."""
    try:
        installed = version("spikingjelly")
    except PackageNotFoundError:
        return "SpikingJelly is not installed"
    return f"SpikingJelly {installed} has no PSN; install spikingjelly>=2" if installed.startswith("0.") else ""


def spikingjelly(module: str) -> Any:
    """A module of `spikingjelly.activation_based` by its name: "base", "surrogate", ..."""
    with warnings.catch_warnings():
        # 0.0.0.0.14 compiles its surrogates with torch.jit.script, which today's torch calls
        # deprecated.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        loaded = importlib.import_module(f"spikingjelly.activation_based.{module}")
        if module == "functional":
            importlib.import_module("spikingjelly.activation_based.layer")  # 0.0.0.0.14: lazily
        return loaded


def surrogates() -> list[str]:
    """The names of the installed SpikingJelly's surrogates that fire 0 or 1 and have a gradient."""
    installed = spikingjelly("surrogate")
    # In 0.0.0.0.14, which lacks SuperSpike, the backward pass of NonzeroSignLogAbs raises.
    unusable = () if hasattr(installed, "SuperSpike") else ("NonzeroSignLogAbs",)
    return [name for name in SURROGATES if hasattr(installed, name) and name not in unusable]


def surrogate(spec: Any) -> Any:
    """The surrogate module that a name such as "ATan" stands for; a module is returned as it is.

    Raises ValueError for a name that the installed SpikingJelly does not have, TypeError for what
    is no module.
    """
    if not isinstance(spec, str):
        if not callable(spec):
            raise TypeError(f"a surrogate is a name or a module of spikingjelly's surrogate, got {spec!r}")
        return spec
    available = surrogates()
    if spec not in available:
        raise ValueError(f"no surrogate {spec!r}; {choices(spec, available, limit=len(SURROGATES))}")
    return getattr(spikingjelly("surrogate"), spec)()


def rescaled(surrogate_function: Any, scale: float) -> Any:
    """The surrogate, stretched for potentials that are `scale` times as large.

    If its `alpha` does not set a width, it is returned as it is.
    """
    if scale <= 0 or scale == 1 or type(surrogate_function).__name__ not in _WIDTHS:
        return surrogate_function
    copied = copy.deepcopy(surrogate_function)
    copied.alpha = surrogate_function.alpha / scale
    return copied


@dataclass(frozen=True)
class OldNode:
    """What `swap` knows of a node that it replaces; None is what the node does not have.

    surrogate_function, v_threshold: as it has them. leak: what a step keeps of its potential, 1 if
    all. gain: what a step adds of its input. constant: its input was the same at each step of the
    example. repeated: the number of steps, if its input is made of the net's own input alone, and
    that was the same at each; else 0. still: some node of the net is fed like this.
    """

    surrogate_function: Any
    v_threshold: float | None
    leak: float | None
    gain: float
    constant: bool
    repeated: int = 0
    still: bool = False

    def integrator(self, chosen: Mapping[str, Any], *, slow: bool) -> dict[str, float]:
        """`alpha_init` and `v_threshold` of H_t = alpha H_{t-1} + (1 - alpha) X_t in its place.

        alpha is the leak, .5 for IF. The threshold is in the units of H, which is (1 - leak) / gain
        times the potential before its first reset. Empty if the leak is unknown.

        slow: a leak of T steps where the net's own input feeds it the same at T steps, unless the
        old one is slower. A potential without reset settles, and the neuron then fires always or
        never; with this leak the step at which it begins to fire tells how strong its input is.
        Within T steps it fires for the same inputs as the old neuron.
        """
        if self.leak is None:
            return {}
        leak = max(self.leak, 0.01) if self.leak < 1 else chosen.get("alpha_init") or 0.5
        slowest = 1 - 1 / self.repeated if slow and self.repeated and "alpha_init" not in chosen else 0.0
        reached = 1 - slowest**self.repeated if slowest > leak else 1.0
        alpha = {"alpha_init": max(leak, slowest)}
        if self.v_threshold is None:
            return alpha
        return {**alpha, "v_threshold": self.v_threshold * (1 - leak) / self.gain * reached}


class BothLines:
    """The base of a class that works in both lines, in front of SpikingJelly's `MemoryModule`.

    The class has a method `advance(x, state, mask, *, single) -> (spikes, state, potential)`, state
    a dict of its memories or None.
    """

    @property
    def step_mode(self) -> str:
        """ "s": one step per call, "m": a sequence per call."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        # A mode that this node lacks is refused when the node is called: `set_step_mode` sets one
        # module after the other, and an error here would leave it halfway through the net.
        self._step_mode = value if value in ("s", "m") else self.possible_mode(value)

    def possible_mode(self, value: str) -> str:
        """The step mode; raises ValueError if the node cannot run in it."""
        node: Any = self
        if value in node.supported_step_mode():
            return value
        valid = " and ".join(f'"{mode}"' for mode in node.supported_step_mode())
        reason = f": {node.one_mode}" if getattr(node, "one_mode", "") else ""
        raise ValueError(f'{type(self).__name__}: step_mode "{value}" is not possible; this node has {valid}{reason}')

    def __getattr__(self, name: str) -> Any:
        # 0.0.0.0.14's monitors call this method itself, also for attributes that Python would find
        # without it. Parameters and modules are looked up here, as every call of a node does so.
        inside = self.__dict__
        if name in inside:
            return inside[name]
        if name in (parameters := inside.get("_parameters", ())):
            return parameters[name]
        if name in (modules := inside.get("_modules", ())):
            return modules[name]
        return super().__getattr__(name)  # type: ignore[misc]

    def single_step_functional_forward(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """2.x: one step, states in the order of `named_memories()`; one not made yet is None."""
        return self._transition(inputs, states, single=True, **kwargs)

    def multi_step_functional_forward(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """2.x: a sequence, states in the order of `named_memories()`; one not made yet is None."""
        return self._transition(inputs, states, single=False, **kwargs)

    def _transition(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], *, single: bool, mask: Any = None
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        node: Any = self
        (x,) = inputs
        names = [name for name, _ in node.named_memories()]
        if len(states) != len(names):
            raise ValueError(
                f"{type(self).__name__}: {len(states)} states were handed in, it has {len(names)}: {', '.join(names)}"
            )
        missing = any(value is None for value in states)
        state = None if missing else dict(zip(names, states, strict=True))
        spikes, after, _ = node.advance(x, state, mask, single=single)
        return (spikes,), tuple(after[name] for name in names)


def multi_step(neuron: str) -> Any:
    """A pure multi-step function of 2.x, such as `functional.lif_multi_step`, or None."""
    return getattr(spikingjelly("functional"), f"{neuron}_multi_step", None)


def node_classes() -> tuple[type[Any], ...]:
    """SpikingJelly's spiking neurons: integrate-and-fire nodes, and the PSN family if it has it.

    Nodes of `spikingjelly.clock_driven`, and of copies of SpikingJelly inside other packages, are
    among them if the process has imported them. If it has not, no network can contain one.
    """
    neuron = spikingjelly("neuron")
    names = ("BaseNode", "PSN", "MaskedPSN", "SlidingPSN")
    classes = tuple(getattr(neuron, name) for name in names if hasattr(neuron, name))
    others = [module for name, module in list(sys.modules.items()) if _of_spikingjelly(name)]
    bases = [module.BaseNode for module in others if hasattr(module, "BaseNode")]
    return tuple(dict.fromkeys((*classes, *bases)))


def _of_spikingjelly(module: str) -> bool:
    """Whether a module of this name holds nodes of SpikingJelly, or of a copy of it."""
    return module.endswith((".activation_based.neuron", _CLOCK_DRIVEN)) or ".activation_based.neuron." in module


def step_mode(module: Any) -> str:
    """ "s" or "m" as a node's class or its attribute says it; "" if neither does."""
    caller = next((one for one in type(module).__mro__ if "forward" in vars(one)), object)
    if caller.__module__.endswith(_CLOCK_DRIVEN):
        return "m" if caller.__name__.startswith("MultiStep") else "s"
    mode = getattr(module, "step_mode", "")
    return mode if mode in ("s", "m") else ""


def leak_and_gain(node: Any) -> tuple[float | None, float]:
    """What a step of a node keeps of its potential, None if unknown, and adds of its input.

    LIF and PLIF with and without `decay_input`, and IF.
    """
    names = {one.__name__ for one in type(node).__mro__ if _of_spikingjelly(one.__module__)}
    if "IFNode" in names:
        return 1.0, 1.0
    if "ParametricLIFNode" in names:
        share = float(node.w.detach().sigmoid())
    elif "LIFNode" in names and isinstance(node.tau, float | int):
        share = 1 / node.tau
    else:
        return None, 1.0
    return 1 - share, share if getattr(node, "decay_input", True) else 1.0


def recurrent_containers() -> tuple[type[Any], ...]:
    """The containers that feed a module's output back into its next step."""
    layer = spikingjelly("layer")
    return (layer.ElementWiseRecurrentContainer, layer.LinearRecurrentContainer)


def reset(net: Any) -> None:
    """What `functional.reset_net` does, right after modules of the net were exchanged too.

    The function of 0.0.0.0.14 warns of each node of `clock_driven` and fails if a `reset` is no
    method.
    """
    forget_reset_cache(net)
    for module in net.modules():
        if callable(getattr(module, "reset", None)):
            module.reset()


def forget_reset_cache(net: Any) -> None:
    """Tell 2.x, which remembers the modules that `reset_net` found, that they may have changed.

    It remembers them for each module that it was called with, such as `reset_net(net.blocks)`.
    """
    functional = spikingjelly("functional")
    if hasattr(functional, "invalidate_reset_cache"):
        for module in net.modules():
            functional.invalidate_reset_cache(module)
