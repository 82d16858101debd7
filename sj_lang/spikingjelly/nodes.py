"""SpikingJelly's serial neurons behind the contract of `sj_lang.neuron.Node`.

Each is charged, fires and is reset, step after step:

    H_t = charge(X_t, V_{t-1})
    S_t = Heaviside(H_t - v_threshold), with the gradient of surrogate_function
    V_t = (1 - S_t) H_t + S_t v_reset          hard reset
    V_t = H_t - S_t v_threshold                soft reset, v_reset = None

Sequences run through SpikingJelly's own multi-step function if the installed release has one (2.x),
else through a loop over the same equations. The names of the arguments and their defaults are
SpikingJelly's.

Unlike SpikingJelly's nodes, these remove masked steps (its own accept a mask and ignore it), keep
states in float32 for half-precision input, and turn NaN at a step into NaN in the spike (its own
fire 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sj_lang.compat import multi_step, surrogate
from sj_lang.neuron import Node, State


class Serial(Node):
    """Charge, fire, reset. A subclass defines `charge`, and may name a `fused` function.

    channels: size of axis 2 of `[T, B, C, ...]`; nothing is kept per channel.
    v_threshold: in units of the membrane potential, as everything that begins with v.
    v_reset: the potential after a spike, and before the first step; None: a spike subtracts
        v_threshold, and the potential starts at 0.
    surrogate_function: a surrogate of SpikingJelly, or its name.
    detach_reset: no gradient through the reset.
    step_mode, backend, store_v_seq: as of `Node`; `v_seq` holds the potentials after the reset, as
        in SpikingJelly.

    State: "v" [B, C, ...], the potential after the reset, float32 (float64 for float64 input).
    """

    fused: ClassVar[Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None] = None

    def __init__(
        self,
        *,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: str | nn.Module = "Sigmoid",
        detach_reset: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.v_threshold = float(v_threshold)
        self.v_reset = None if v_reset is None else float(v_reset)
        self.surrogate_function: nn.Module = surrogate(surrogate_function)
        self.detach_reset = bool(detach_reset)

    @property
    def threshold(self) -> float | Tensor:
        """The potential at which a neuron fires."""
        return self.v_threshold

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """H_t, from X_t and V_{t-1}."""
        raise TypeError(f"{self._name} defines no `charge`")

    def reset_potential(self, h: Tensor, s: Tensor) -> Tensor:
        """V_t, from H_t and S_t."""
        return h - s * self.threshold if self.v_reset is None else (1.0 - s) * h + s * self.v_reset

    def arguments(self) -> dict[str, Any]:
        """What `fused` takes beside x, v and what all nodes share."""
        return {}

    def run(self, x: Tensor, v: Tensor, store_v_seq: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [T, B, C, ...] and V_0 to spikes, V_T and, if asked for, all V_t."""
        fused, threshold = type(self).fused, self.threshold
        if fused is not None and isinstance(threshold, float):
            return fused(
                x_seq=x,
                v=v,
                v_threshold=threshold,
                v_reset=self.v_reset,
                surrogate_function=self.surrogate_function,
                detach_reset=self.detach_reset,
                store_v_seq=store_v_seq,
                **self.arguments(),
            )
        spikes, potentials = [], []
        for x_t in x.unbind(0):
            h = self.charge(x_t, v)
            s = self.surrogate_function(h - threshold)
            v = self.reset_potential(h, s.detach() if self.detach_reset else s)
            spikes.append(s)
            potentials.append(v)
        return torch.stack(spikes), v, torch.stack(potentials) if store_v_seq else None

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"v": tuple(shape)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        spikes, v, _ = self.run(x.unsqueeze(0), state["v"], False)
        return keep_nan(spikes[0], x), {"v": v}, v

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, v, v_seq = self.run(x, state["v"], self.store_v_seq or lengths is not None)
        if lengths is not None and v_seq is not None:
            v = at(v_seq, lengths - 1, before=state["v"])
        return keep_nan(spikes, x), {"v": v}, v_seq

    def extra_repr(self) -> str:
        reset = f"v_threshold={self.v_threshold}, v_reset={self.v_reset}, detach_reset={self.detach_reset}"
        return f"{super().extra_repr()}, {reset}"

    def fresh_state(self, x: Tensor, shape: torch.Size) -> State:
        return {name: value.fill_(self.v_reset or 0.0) for name, value in super().fresh_state(x, shape).items()}


class IF(Serial):
    """Integrate and fire: H_t = V_{t-1} + X_t. The arguments are those of `Serial`."""

    fused = multi_step("if")

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + x

    def operations(self) -> tuple[float, float]:
        return 0, 1


class LIF(Serial):
    """Leaky integrate and fire: H_t = V_{t-1} + (X_t - (V_{t-1} - v_reset)) / tau.

    With decay_input False, H_t = V_{t-1} - (V_{t-1} - v_reset) / tau + X_t. v_reset None is 0 here.

    tau: membrane time constant, in steps; above 1. learn_threshold (ours): the threshold is exp(w),
    w learned, one for all neurons of the layer; v_threshold, above 0, is its start. Sequences then
    run step by step. The other arguments are those of `Serial`.
    """

    fused = multi_step("lif")

    def __init__(
        self, *, tau: float = 2.0, decay_input: bool = True, learn_threshold: bool = False, **common: Any
    ) -> None:
        super().__init__(**common)
        self.tau, self.decay_input = time_constant("LIF", "tau", tau), decay_input
        if learn_threshold and not self.v_threshold > 0:
            raise ValueError(f"LIF: v_threshold is {self.v_threshold}, a learned one begins above 0")
        self.log_threshold = nn.Parameter(torch.tensor(math.log(self.v_threshold))) if learn_threshold else None

    @property
    def threshold(self) -> float | Tensor:
        return self.v_threshold if self.log_threshold is None else self.log_threshold.exp()

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        rest = self.v_reset or 0.0
        return v + (x - (v - rest)) / self.tau if self.decay_input else v - (v - rest) / self.tau + x

    def operations(self) -> tuple[float, float]:
        return 1, 1

    def arguments(self) -> dict[str, Any]:
        return {"tau": self.tau, "decay_input": self.decay_input}


class PLIF(Serial):
    """LIF with 1 / tau = sigmoid(w), w learned, one for all neurons of the layer.

    init_tau: the time constant at the start, in steps; above 1. Other arguments: those of `LIF`.
    """

    fused = multi_step("plif")

    def __init__(self, *, init_tau: float = 2.0, decay_input: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.w = nn.Parameter(torch.tensor(-math.log(time_constant("PLIF", "init_tau", init_tau) - 1.0)))
        self.decay_input = decay_input

    def decays(self) -> dict[str, Tensor]:
        return {"1 - 1 / tau": 1 - self.w.sigmoid().view(1)}

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        rest, rate = self.v_reset or 0.0, self.w.sigmoid()
        return v + (x - (v - rest)) * rate if self.decay_input else v - (v - rest) * rate + x

    def operations(self) -> tuple[float, float]:
        return 1, 1

    def arguments(self) -> dict[str, Any]:
        return {"w": self.w, "decay_input": self.decay_input}


def keep_nan(spikes: Tensor, x: Tensor) -> Tensor:
    """The spikes, with NaN wherever x is NaN: a Heaviside of NaN is 0, which would hide it."""
    return spikes.masked_fill(x.isnan(), math.nan)


def at(v_seq: Tensor, last: Tensor, before: Tensor) -> Tensor:
    """v_seq [T, B, ...] at step `last` [B] of each row; `before` [B, ...] if `last` is -1."""
    v = v_seq[last.clamp(min=0), torch.arange(len(last), device=last.device)]
    return torch.where(last.view(-1, *(1,) * (v.dim() - 1)) >= 0, v, before)


def time_constant(node: str, name: str, value: float) -> float:
    """A time constant in steps, above 1."""
    if not (value > 1 and math.isfinite(value)):
        raise ValueError(f"{node}: {name} is {value}, it must be above 1 and finite")
    return float(value)
