"""The parallel neurons of SpikingJelly 2.x as nodes of `sj_lang.neuron`; arXiv 2304.12760.

All compute H = (some weights over time) X + bias and fire a Heaviside of H; weights and bias are
shared by all neurons of a layer. Weights, initialisation and names of the arguments are
SpikingJelly's.

Unlike SpikingJelly's nodes, these compute half-precision input in float32 and turn NaN at a step
into NaN in the spike (its own fire 0). Sliding PSN carries state, takes a mask, and costs O(k T)
instead of O(T^2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly, surrogate
from sj_lang.errors import UserError
from sj_lang.neuron import Node, State
from sj_lang.neuron.inputs import refuse_unfit
from sj_lang.spikingjelly.nodes import keep_nan


class WrongLength(UserError, ValueError):
    """A sequence of another length than T, which whoever built the neuron can correct."""


class FixedLength(Node):
    """A node whose weights are a matrix over T steps: it takes whole sequences of T steps only."""

    never_reset = True
    surrogate_function: nn.Module
    weight: nn.Parameter  # [T, T]
    bias: nn.Parameter  # [T, 1]

    def __init__(self, *, T: int, **common: Any) -> None:
        if T < 1:
            raise ValueError(f"{type(self).__name__}: T is {T}, it must be at least 1")
        super().__init__(**common)
        self.T = T

    def over_time(self) -> Tensor:
        """The weights [T, T]: row t says how the steps of X enter H_t."""
        return self.weight

    def operations(self) -> tuple[float, float]:
        return self.T, 0

    def supported_step_mode(self) -> tuple[str, ...]:
        """SpikingJelly's question: sequences only."""
        return ("m",)

    def advance(
        self, x: Tensor, state: State | None, mask: Tensor | None, *, single: bool
    ) -> tuple[Tensor, State, Tensor | None]:
        refuse_unfit(self, x, mask, single)
        if single:
            raise ValueError(f"{self._name} takes whole sequences of T = {self.T} steps, not a single step")
        if len(x) != self.T:
            raise WrongLength(
                f"{self._name} is built for T = {self.T} steps, the input has {len(x)}: set its T to that"
            )
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                f"{self._name} does not accept a mask: its {self.T} x {self.T} weights fit no shorter sequence"
            )
        return super().advance(x, state, None, single=False)

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        weight = self.over_time().to(x.dtype)
        h = torch.addmm(self.bias.to(x.dtype), weight, x.masked_fill(x.isnan(), 0).flatten(1)).view(x.shape)
        return keep_nan(self.surrogate_function(h), x), state, h

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, T={self.T}"


class PSN(FixedLength):
    """Parallel spiking neuron: H = W X + b, S = Heaviside(H), W [T, T] and b [T, 1] learned.

    channels: size of axis 2 of `[T, B, C, ...]`; nothing is kept per channel.
    T: the number of steps, which is fixed.
    surrogate_function: a surrogate of SpikingJelly, or its name.
    """

    def __init__(self, *, T: int, surrogate_function: str | nn.Module = "ATan", **common: Any) -> None:
        super().__init__(T=T, **common)
        node = spikingjelly("neuron").PSN(T=T, surrogate_function=surrogate(surrogate_function))
        self.surrogate_function, self.weight, self.bias = node.surrogate_function, node.weight, node.bias


class MaskedPSN(FixedLength):
    """PSN with W pulled to a band: W * (lambda M_k + 1 - lambda), M_k[i][j] = 1 for 0 <= i - j < k.

    Causal from lambda_ = 1 on. A training sets `lambda_` between 0 and 1 as it goes. Single steps,
    which SpikingJelly has for lambda_ = 1 and the first T steps, are not offered.

    channels: size of axis 2 of `[T, B, C, ...]`; nothing is kept per channel.
    k: steps that the band looks back, this one included.
    T: the number of steps, which is fixed.
    lambda_init: lambda at the start, 0 (all of W) to 1 (the band).
    surrogate_function: a surrogate of SpikingJelly, or its name.
    """

    _lambda_: Tensor
    mask0: Tensor  # [T, T], the band
    mask1: Tensor  # [T, T], ones

    def __init__(
        self, *, k: int, T: int, lambda_init: float = 0.0, surrogate_function: str | nn.Module = "ATan", **common: Any
    ) -> None:
        if not 0 <= lambda_init <= 1:
            raise ValueError(f"MaskedPSN: lambda_init is {lambda_init}, it must lie between 0 and 1")
        super().__init__(T=T, **common)
        node = spikingjelly("neuron").MaskedPSN(
            k=taps("MaskedPSN", k),
            T=T,
            lambda_init=float(lambda_init),
            surrogate_function=surrogate(surrogate_function),
            step_mode="m",
        )
        self.surrogate_function, self.weight, self.bias = node.surrogate_function, node.weight, node.bias
        self.k = k
        self.register_buffer("_lambda_", node.lambda_)
        self.register_buffer("mask0", node.mask0)
        self.register_buffer("mask1", node.mask1)

    @property
    def lambda_(self) -> Tensor:
        """How far W is a band: 0 not at all, 1 entirely."""
        return self._lambda_

    @lambda_.setter
    def lambda_(self, value: float) -> None:
        self.lambda_.fill_(value)

    def over_time(self) -> Tensor:
        return (self.lambda_ * self.mask0 + (1.0 - self.lambda_) * self.mask1) * self.weight


class SlidingPSN(Node):
    """H_t = sum_{i<k} W_i X_{t-k+1+i} + b, S = Heaviside(H); X_t = 0 for t < 1. W [k], b learned.

    channels: size of axis 2 of `[T, B, C, ...]`; nothing is kept per channel.
    k: steps that it looks back, this one included.
    exp_init: W starts as (..., 1/4, 1/2, 1); False: Kaiming uniform.
    surrogate_function: a surrogate of SpikingJelly, or its name.

    State: "tail" [B, k-1, C, ...], the last k - 1 valid inputs, oldest first; float32 (float64 for
    float64 input).
    """

    never_reset = True

    def __init__(
        self, *, k: int, exp_init: bool = True, surrogate_function: str | nn.Module = "ATan", **common: Any
    ) -> None:
        self.k = taps("SlidingPSN", k)
        super().__init__(**common)
        node = spikingjelly("neuron").SlidingPSN(
            k=k, exp_init=exp_init, surrogate_function=surrogate(surrogate_function), step_mode=self.step_mode
        )
        self.surrogate_function, self.weight, self.bias = node.surrogate_function, node.weight, node.bias

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"tail": (shape[0], self.k - 1, *shape[1:])}

    def operations(self) -> tuple[float, float]:
        return self.k, 0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        spikes, after, h = self.sequence(x.unsqueeze(0), state, None)
        return spikes[0], after, h[0]

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor]:
        seen = torch.cat((state["tail"].movedim(1, 0), x))  # [k-1+T, B, C, ...]
        weight, h = self.weight.to(x.dtype), self.bias.to(x.dtype).expand_as(x)
        for i in range(self.k):
            h = torch.addcmul(h, weight[i], seen[i : i + len(x)])
        return keep_nan(self.surrogate_function(h), x), {"tail": self._tail(seen, lengths)}, h

    def _tail(self, seen: Tensor, lengths: Tensor | None) -> Tensor:
        """The k - 1 steps before the end of each row [B, k-1, C, ...]."""
        size = self.k - 1
        if lengths is None:
            return seen[len(seen) - size :].movedim(0, 1).clone(memory_format=torch.contiguous_format)
        rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        return seen[lengths[:, None] + torch.arange(size, device=lengths.device), rows]


def taps(node: str, k: int) -> int:
    """The order of a PSN, at least 1."""
    if k < 1:
        raise ValueError(f"{node}: k is {k}, it must be at least 1")
    return k
