"""More of SpikingJelly's serial neurons; see `sj_lang.spikingjelly.nodes`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import multi_step
from sj_lang.spikingjelly.nodes import Serial, time_constant


class KLIF(Serial):
    """LIF that fires on F_t = relu(k H_t), k learned, one for all neurons; arXiv 2302.09238.

    The reset acts on F_t; with scale_reset on F_t / k, a soft one then subtracts v_threshold / k.
    The other arguments are those of `LIF`.
    """

    def __init__(self, *, scale_reset: bool = False, tau: float = 2.0, decay_input: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.scale_reset, self.decay_input = scale_reset, decay_input
        self.tau = time_constant("KLIF", "tau", tau)
        self.k = nn.Parameter(torch.tensor(1.0))

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        rest = self.v_reset or 0.0
        h = v + (x - (v - rest)) / self.tau if self.decay_input else v - (v - rest) / self.tau + x
        return torch.relu(self.k * h)

    def reset_potential(self, h: Tensor, s: Tensor) -> Tensor:
        if not self.scale_reset:
            return super().reset_potential(h, s)
        if self.v_reset is None:
            return h / self.k - s * (self.v_threshold / self.k)
        return (1.0 - s) * (h / self.k) + s * self.v_reset


class QIF(Serial):
    """Quadratic integrate and fire: H = V + (X + a0 (V - v_rest) (V - v_c)) / tau, V of step t - 1.

    tau: time constant, in steps; above 1. v_rest: resting potential. v_c: critical potential, above
    which it fires on its own. The other arguments are those of `Serial`.
    """

    fused = multi_step("qif")

    def __init__(
        self,
        *,
        tau: float = 2.0,
        v_c: float = 0.8,
        a0: float = 1.0,
        v_rest: float = 0.0,
        v_reset: float | None = -0.1,
        **common: Any,
    ) -> None:
        super().__init__(v_reset=v_reset, **common)
        self.tau = time_constant("QIF", "tau", tau)
        self.v_c, self.a0, self.v_rest = float(v_c), float(a0), float(v_rest)
        check_order(self, self.v_rest)

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + (x + self.a0 * (v - self.v_rest) * (v - self.v_c)) / self.tau

    def arguments(self) -> dict[str, Any]:
        return {"tau": self.tau, "v_rest": self.v_rest, "v_c": self.v_c, "a0": self.a0}


class EIF(Serial):
    """Exponential integrate and fire, V of step t - 1.

        H = V + (X + v_rest - V + delta_T exp((V - theta_rh) / delta_T)) / tau

    tau: time constant, in steps; above 1. delta_T: sharpness, above 0. theta_rh: rheobase
    threshold. v_rest: resting potential. The other arguments are those of `Serial`.
    """

    fused = multi_step("eif")

    def __init__(
        self,
        *,
        tau: float = 2.0,
        delta_T: float = 1.0,
        theta_rh: float = 0.8,
        v_rest: float = 0.0,
        v_reset: float | None = -0.1,
        **common: Any,
    ) -> None:
        if not delta_T > 0:
            raise ValueError(f"EIF: delta_T is {delta_T}, it must be above 0")
        super().__init__(v_reset=v_reset, **common)
        self.tau = time_constant("EIF", "tau", tau)
        self.delta_T, self.theta_rh, self.v_rest = float(delta_T), float(theta_rh), float(v_rest)
        check_order(self, self.v_rest)

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        grown = self.delta_T * torch.exp((v - self.theta_rh) / self.delta_T)
        return v + (x + self.v_rest - v + grown) / self.tau

    def arguments(self) -> dict[str, Any]:
        return {"tau": self.tau, "v_rest": self.v_rest, "theta_rh": self.theta_rh, "delta_t": self.delta_T}


def check_order(node: Serial, v_rest: float) -> None:
    """Refuse a hard reset to v_threshold or above, or above v_rest."""
    name, v_reset = type(node).__name__, node.v_reset
    if v_reset is not None and v_reset >= node.v_threshold:
        raise ValueError(f"{name}: v_reset is {v_reset}, it must be below v_threshold, {node.v_threshold}")
    if v_reset is not None and v_reset > v_rest:
        raise ValueError(f"{name}: v_reset is {v_reset}, it must not be above v_rest, {v_rest}")
