"""Sub-steps as users build them: a SpikingJelly node around another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sj_lang import build
from sj_lang.component.schema import Part
from sj_lang.neuron import Node, State
from sj_lang.neuron.inputs import refuse_unfit

if TYPE_CHECKING:  # a type checker reads a name in quotes as a class
    WrappedNeuron = str | Mapping[str, Any] | Callable[..., nn.Module]
else:
    WrappedNeuron = Part["neuron"]


def _of_the_neuron(name: str) -> Any:
    """A property that the node shares with the neuron inside."""

    def put(node: Any, value: Any) -> None:
        if "neuron" in node._modules:  # SpikingJelly 0.0.0.0.14 sets a mode before there is one
            setattr(node.neuron, name, value)

    return property(lambda node: getattr(node.neuron, name), put)


class SubSteps(Node):
    """m sub-steps of another neuron a step: each is shown the step's current; their sum is fired.

        S_t = sum_{d=1..m} s_{m (t - 1) + d},    s = N(X_1 m times, ..., X_T m times)

    So a step fires 0 to m times the largest spike of N, and the product after it is the sum of the
    products of the m sub-steps. Ours, for comparing neurons at equal sub-steps: DSN with `n` above
    1 stands for n binary sub-steps.

    of: the neuron N, a `sj_lang.neuron.Node`: a registered name, a mapping with `type`, or what
        builds one, `of(channels=C)`. What it counts in steps (T, k, a time constant) are sub-steps.
        `backend`, `store_v_seq` and `axis` are its options, and attributes of both.
    m: sub-steps of a step, 1 or more.
    channels: as of N.
    step_mode: "s" or "m"; "s" if N has it.

    The state, parameters, masks and errors are those of N: a masked step is m masked sub-steps.
    `v_seq` [T, B, C, ...] has the potentials after the last sub-step of each step.
    """

    neuron: Node
    step_mode = _of_the_neuron("step_mode")
    backend = _of_the_neuron("backend")
    store_v_seq = _of_the_neuron("store_v_seq")
    axis = _of_the_neuron("axis")

    def __init__(self, *, of: WrappedNeuron, m: int, channels: int, step_mode: str = "m") -> None:
        if m < 1:
            raise ValueError(f"SubSteps: m is {m}, it must be at least 1")
        make = build.part("neuron", of) if isinstance(of, str | Mapping) else of
        neuron = make(channels=channels)
        if not isinstance(neuron, Node):
            raise ValueError(f"SubSteps: of builds a {type(neuron).__name__}, expected a sj_lang.neuron.Node")
        super(Node, self).__init__()  # what the constructor of `Node` sets, the neuron has
        self.neuron, self.channels, self.m = neuron, channels, m
        self.sub_steps = m * neuron.sub_steps
        self.levels = m * neuron.levels
        lowest, highest = getattr(neuron, "spike_range", (0, neuron.levels))
        self.spike_range = m * lowest, m * highest
        self.v_seq: Tensor | None = None
        self.step_mode = self.possible_mode(step_mode)
        for name in self.state_shapes(torch.Size((1, channels))):
            self.register_memory(name, None)

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return self.neuron.state_shapes(shape)

    def fresh_state(self, x: Tensor, shape: torch.Size) -> State:
        return self.neuron.fresh_state(x, shape)

    def init_state(self, x: Tensor) -> State:
        return self.neuron.init_state(x)

    def operations(self) -> tuple[float, float] | None:
        cost = self.neuron.operations()
        return None if cost is None else (self.m * cost[0], self.m * cost[1])

    def decays(self) -> dict[str, Tensor]:
        """The shares that m sub-steps keep."""
        m = self.m
        return {f"({name})^{m}" if m > 1 else name: kept**m for name, kept in self.neuron.decays().items()}

    def advance(
        self, x: Tensor, state: State | None, mask: Tensor | None, *, single: bool
    ) -> tuple[Tensor, State, Tensor | None]:
        refuse_unfit(self, x, mask, single)
        if single:
            self.possible_mode("s")
            x, mask = x.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
        m = self.m
        mask = None if mask is None else mask.repeat_interleave(m, 0)
        spikes, after, v = self.neuron.advance(x.repeat_interleave(m, 0), state, mask, single=False)
        spikes = torch.unflatten(spikes, 0, (-1, m)).sum(1)
        v = None if v is None else v[m - 1 :: m]
        return (spikes[0], after, None if v is None else v[0]) if single else (spikes, after, v)

    def supported_step_mode(self) -> tuple[str, ...]:
        """SpikingJelly's question: those of the neuron."""
        modes: tuple[str, ...] = self.neuron.supported_step_mode()
        return modes

    def possible_mode(self, value: str) -> str:
        return self.neuron.possible_mode(value)

    def why_not(self, backend: str, x: Tensor | None) -> str:
        return self.neuron.why_not(backend, x)

    def extra_repr(self) -> str:
        return f"m={self.m}"
