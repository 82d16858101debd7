"""The base class of neurons with kernels, and the one place where a backend is chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sj_lang import cuda, masks
from sj_lang.compat import BothLines, OldNode, spikingjelly
from sj_lang.errors import choices
from sj_lang.masks import State as State  # neurons import it from here
from sj_lang.neuron import inputs
from sj_lang.operators import Kernel as Kernel  # neurons import it from here
from sj_lang.operators import is_exporting, leaf, no_autocast

BACKENDS = ("auto", "torch", "numba", "cupy")
PREFERRED = ("cupy", "numba", "torch")

_NO_BACKWARD = -1  # the number of the backward pass that this thread is in

base: Any = spikingjelly("base")


class Node(BothLines, base.MemoryModule):  # type: ignore[misc]  # SpikingJelly is untyped
    """A spiking neuron with channels in axis 2 of `[T, B, C, ...]`, for both lines of SpikingJelly.

    Its users may have the channels on another axis; a subclass sees them in axis 2.

    A subclass gives `state_shapes` and `step`, and `sequence` if it has something better than a
    loop over `step`. It registers no memory, computes in the dtype of its states (float32, or
    float64 for float64 input), and never sees a mask: masked steps are removed before it and are
    zeros after it.

    channels: size of the channel axis.
    backend: "auto", "torch", "numba" (CPU) or "cupy" (GPU); any but "auto" raises if it cannot run.
    store_v_seq: keep the membrane potentials of the last call as `v_seq` [T, B, C, ...]; in
        step_mode "s", of all steps since `reset`.
    axis: that of the channels, 2 or more, or negative from the end: -1 for `[T, B, L, D]`. It
        counts along `[T, B, ...]` in step_mode "s" too. A channel has the same parameters at all
        places of the other axes. In a state, the axes between batch and channels follow the batch.

    copies_input: an attribute; if it is set to True, backward reads a copy of the input, which the
        net may then change in place, as `x += f(node(x))` does.

    Class attributes of a subclass: `kernels`, backend -> `Kernel`. `levels`, the largest spike
    value: 1 is binary. `sub_steps`, how often a step updates the states. `never_reset`: spikes do
    not change the potentials, which may be read in their place.
    """

    kernels: ClassVar[Mapping[str, Kernel]] = {}
    levels: int = 1
    sub_steps: int = 1
    never_reset: ClassVar[bool] = False
    copies_input: bool = False
    _axis: int = 2
    _written: Collection[int] = frozenset()  # the ids of the states that the last call wrote

    def __init__(
        self, *, channels: int, step_mode: str = "m", backend: str = "auto", store_v_seq: bool = False, axis: int = 2
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"{self._name}: channels is {channels}, it must be at least 1")
        self.channels = channels
        self.axis = axis
        self.store_v_seq = store_v_seq
        self.v_seq: Tensor | None = None
        self.step_mode = self.possible_mode(step_mode)
        self.backend = backend
        for name in self.state_shapes(torch.Size((1, channels))):
            self.register_memory(name, None)

    # What a subclass gives

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each state, batch on axis 0. shape: of a single step [B, C, ...]."""
        return {}

    def fresh_state(self, x: Tensor, shape: torch.Size) -> State:
        """The states before the first step of x: zeros, unless a subclass has a resting potential.

        shape: of a single step [B, C, ...].
        """
        dtype = state_dtype(x)
        return {name: x.new_zeros(size, dtype=dtype) for name, size in self.state_shapes(shape).items()}

    def operations(self) -> tuple[float, float] | None:
        """Multiply-accumulates and accumulations of a neuron in a single step; None: unknown.

        What does not depend on the input does not count, nor do comparisons; a look-up (sigmoid,
        logarithm) counts as a multiply-accumulate. `sj_lang.energy` reads it.
        """
        return None

    def decays(self) -> dict[str, Tensor]:
        """Name -> the share of a state that a step keeps, as learned: `[C]`, or `[1]` for all.

        If the input decides it, this is the share for zero input. It is empty if none is learned.
        `sj_lang.monitor` reads it.
        """
        return {}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """x [B, C, ...] and state to spikes, new state (no view) and potential. Pure."""
        raise TypeError(f"{self._name} has no single step")

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        """A sequence x [T, B, C, ...] to spikes, state after the last valid step, and potentials.

        lengths [B], int64: the valid steps of each sequence, which come first; None: all are valid.
        What is returned for later steps is ignored. Potentials may be None if not `store_v_seq`.

        x is in the dtype of the states, and the state is whole, unless one of the node's kernels
        says `half` or `zeros`: then `self.fitted(self.choose(x), x, state)` makes them so.
        """
        spikes, potentials = [], []
        for t, x_t in enumerate(x.unbind(0)):
            s, after, v = self.step(x_t, state)
            state = after if lengths is None else masks.choose(lengths > t, after, state)
            spikes.append(s)
            potentials.append(v)
        return torch.stack(spikes), state, torch.stack(potentials)

    @classmethod
    def in_place_of(cls, old: OldNode, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments, besides those that the user chose, with which the node takes the old one's
        place."""
        return {}

    # What users call

    def init_state(self, x: Tensor) -> State:
        """The state before the first step of x, whose values do not matter: `fresh_state`."""
        x, _, between = self._folded(x, None, self.step_mode == "s")
        shape = x.shape[1:] if self.step_mode == "m" else x.shape
        return masks.unfolded(self.fresh_state(x, shape), between)

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Spikes of x in its dtype, and the state after it. Pure: the node's memory is not touched.

        x: [T, B, C, ...] in step_mode "m", [B, C, ...] in "s"; T >= 1.
        state: as returned by an earlier call or by `init_state`; None: `init_state(x)`.
        mask: [T, B] in "m", [B] in "s", bool, True where a step is valid. Masked steps are removed:
            spikes there are 0, what x holds there never matters, the state passes by them.

        Raises ValueError and TypeError with what was found and what is right.
        """
        spikes, state, _ = self.advance(x, state, mask, single=self.step_mode == "s")
        return spikes, state

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`functional` with the state kept in the node, until SpikingJelly's `reset_net`."""
        if isinstance(x, Proxy):
            return leaf(self, x, mask)
        return self.called(x, mask, single=self.step_mode == "s")

    def single_step_forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` of one step, whatever the step mode."""
        return self.called(x, mask, single=True)

    def multi_step_forward(self, x_seq: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` of a sequence, whatever the step mode."""
        return self.called(x_seq, mask, single=False)

    def advance(
        self, x: Tensor, state: State | None, mask: Tensor | None, *, single: bool
    ) -> tuple[Tensor, State, Tensor | None]:
        """`functional` for a given step mode, with the potentials if `store_v_seq`."""
        inputs.refuse_unfit(self, x, mask, single)
        if self.copies_input and torch.is_grad_enabled():
            x = x.clone()
        x, mask, between = self._folded(x, mask, single)
        dtype = state_dtype(x)
        shape = x.shape if single else x.shape[1:]
        half = zeros = False
        if not single:  # `sequence` fits both to its choice
            for kernel in self.kernels.values():
                half, zeros = half or kernel.half, zeros or kernel.zeros
        if state is not None:
            state = inputs.folded_state(self, state, x, shape, between or shape[:1], dtype)
        else:
            state = {} if zeros else self.fresh_state(x, shape)
        with no_autocast(x):
            current = x if half or x.dtype == dtype else x.to(dtype)
            if mask is None:
                spikes, after, v = self.step(current, state) if single else self.sequence(current, state, None)
            elif single:
                spikes, after, v = masks.step(self.step, current, state, mask)
            else:
                spikes, after, v = masks.sequence(self.sequence, current, state, mask)
        if spikes.dtype != x.dtype:
            spikes = spikes.to(x.dtype)
        if between is None:
            return spikes, after, v
        batch = 0 if single else 1
        v = None if v is None else torch.unflatten(v, batch, between)
        return torch.unflatten(spikes, batch, between), masks.unfolded(after, between), v

    # Channels

    @property
    def axis(self) -> int:
        return self._axis

    @axis.setter
    def axis(self, value: int) -> None:
        if type(value) is not int or value in (0, 1):
            raise ValueError(f"{self._name}: axis is {value!r}; expected 2 or more, or -1 and so on from the end")
        self._axis = value

    def _folded(self, x: Tensor, mask: Tensor | None, single: bool) -> tuple[Tensor, Tensor | None, torch.Size | None]:
        """Both with all axes before the channels as the batch, and these axes; None: one."""
        if self._axis == 2:
            return x, mask, None
        batch = 0 if single else 1
        between = x.shape[batch : masks.channel_axis(self, x, single)]
        if len(between) <= 1:
            return x, mask, None
        mask = None if mask is None else masks.spread(mask, between[1:])
        return x.flatten(batch, batch + len(between) - 1), mask, between

    # Backends

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The names that `backend` may have; whether one can run is said when it is set."""
        return BACKENDS

    @property
    def backend(self) -> str:
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in BACKENDS:
            raise ValueError(f"{self._name}: no backend {value!r}; {choices(str(value), BACKENDS)}")
        reason = self.why_not(value, None)
        if reason:
            raise RuntimeError(f'{self._name}: backend "{value}" {reason}')
        self._backend = value

    def why_not(self, backend: str, x: Tensor | None) -> str:
        """Why this backend cannot run this node on x (None: in this process); "" if it can."""
        if backend == "cupy" and not (x is not None and x.is_cuda) and (nothing := cuda.no_device()):
            return str(nothing)
        if backend in self.kernels:
            kernel = self.kernels[backend]
            return kernel.why_not(x) or kernel.limits(self, x)
        if backend == "auto" or (backend == "torch" and not self.kernels):
            return ""
        return f"has no kernel for this neuron, which has: {', '.join(self.kernels) or 'torch'}"

    def preferred(self) -> tuple[str, ...]:
        """The backends that "auto" tries, in this order."""
        return PREFERRED

    def choose(self, x: Tensor) -> Kernel:
        """The kernel for x: the explicit backend's, or the first of `preferred` that can run."""
        kernels, name = self.kernels, self._backend
        if name != "auto":
            kernel = kernels[name]
            reason = kernel.refuses(self)
            if not (reason or kernel.why_not(x) or kernel.limits(self, x)):
                return kernel
            reason = reason or self.why_not(name, x)
            raise RuntimeError(f'{self._name}: backend "{name}" {reason}')
        for name in self.preferred():
            if name in kernels and not (kernels[name].why_not(x) or kernels[name].limits(self, x)):
                return kernels[name]
        reasons = (f'backend "{name}" {self.why_not(name, x)}' for name in self.preferred() if name in kernels)
        raise RuntimeError(f"{self._name}: {'; '.join(reasons)}")

    def fitted(self, kernel: Kernel, x: Tensor, state: State) -> tuple[Tensor, State]:
        """A sequence and the state before it as this kernel takes them."""
        if not (state or kernel.zeros):
            state = self.fresh_state(x, x.shape[1:])
        return x if kernel.half else x.to(state_dtype(x)), state

    def learned(self, name: str, dtype: torch.dtype) -> Any:
        """A parameter of this name in this dtype; None if it is None."""
        value = self._parameters.get(name)  # faster than an attribute
        if value is None:
            value = getattr(self, name)
        return value if value is None or value.dtype == dtype else value.to(dtype)

    # SpikingJelly's life cycle

    def reset(self) -> None:
        super().reset()
        self.v_seq = None

    def detach(self) -> None:
        super().detach()
        self.v_seq = None if self.v_seq is None else self.v_seq.detach()

    def extra_repr(self) -> str:
        axis = "" if self.axis == 2 else f", axis={self.axis}"
        return f"channels={self.channels}{axis}, step_mode={self.step_mode}, backend={self.backend}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Node:
        """Move parameters and states; states stay float32 beside half-precision parameters."""
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in self.named_memories():
            if value is not None:
                moved = fn(value)
                narrow = moved.dtype in (torch.float16, torch.bfloat16)
                setattr(self, name, value.to(moved.device) if narrow else moved)
        return self

    # Inside

    @property
    def _name(self) -> str:
        return type(self).__name__

    def called(self, x: Tensor, mask: Tensor | None, *, single: bool) -> Tensor:
        """`forward` for a given step mode. `sj_lang.monitor` watches it."""
        memories = dict(self.named_memories())
        state = None if any(value is None for value in memories.values()) else memories
        if is_exporting():
            if state:
                raise RuntimeError(
                    f"{self._name}: an export would make the state of its last call a constant; reset the net first "
                    "(functional.reset_net)"
                )
            return self.advance(x, None, mask, single=single)[0]
        if not torch.compiler.is_compiling():
            self._warn_if_recomputed(state)
        spikes, after, v = self.advance(x, state, mask, single=single)
        for name, value in after.items():
            setattr(self, name, value)
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == _NO_BACKWARD:
            self.__dict__["_written"] = set(map(id, after.values()))
        if self.store_v_seq and v is not None:
            self._keep(v, single)
        return spikes

    def _warn_if_recomputed(self, state: State | None) -> None:
        """Warn if a backward pass runs this call again, from the state that its first run left."""
        if torch._C._current_graph_task_id() == _NO_BACKWARD or not state:
            return
        if set(map(id, state.values())) == self._written:
            warnings.warn(
                f"{self._name}: a backward pass runs it again (torch.utils.checkpoint?) from the state after the first "
                "run, so the gradients are wrong; call `functional` there, or reset the node inside what is run again",
                stacklevel=4,
            )

    def _keep(self, v: Tensor, single: bool) -> None:
        """Like SpikingJelly, keep in step_mode "s" what came since `reset` or a change of shape."""
        v, before = v[None] if single else v, self.v_seq
        if single and before is not None and before.shape[1:] == v.shape[1:]:
            v = torch.cat((before, v))
        self.v_seq = v


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of states, and of all arithmetic on an input x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
