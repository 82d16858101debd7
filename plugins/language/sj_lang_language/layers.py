"""Layers of neurons, the Linear layers after them, and what an ANN twin has in their place.

Everything in a model that carries state has one form, `forward(x, state, mask) -> (y, state)`. `x`
is `[L, B, D]` (individual coding: the token axis is the time axis) or `[T, B, L, D]` (repeat
coding), `mask` has the shape of `x` without its last axis, True = valid, and a state is a dict of
tensors with the batch on axis 0. No state is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sj_lang.errors import UserError
from sj_lang.hf import models
from sj_lang.masks import State
from sj_lang.neuron import Node

MakeNeuron = Callable[..., nn.Module]
MakeNorm = Callable[..., nn.Module]
MakeAttention = Callable[..., nn.Module]


class Stateful(Protocol):
    """The methods of a node that a model calls."""

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]: ...


class SpikingLayer(nn.Module):
    """s = N(x), a layer of `channels` neurons.

    Individual coding: they run along the tokens and carry state. Repeat coding: they run along the
    T steps of each token, from rest, with the tokens folded into the batch, and there is no state
    to carry.

    neuron: builds a fresh node, `neuron(channels=C)`; in an ANN twin, an `Activation`.
    scaled: a spike s of channel c stands for the value a_c s + b_c, with a_c and b_c learned.
        Spikes leave the layer as they are, whole numbers: `SpikingLinear` has the values in its
        weights.
    """

    of_neurons = True  # a and b learn at the rate of the neurons

    def __init__(self, *, neuron: MakeNeuron, channels: int, scaled: bool = False) -> None:
        super().__init__()
        self.channels = channels
        #: for a calibration: spikes stand for this function of the input; None: the input itself
        self.replaces: Callable[[Tensor], Tensor] | None = None
        self._fresh = partial(neuron, channels=channels)
        self.node = self._fresh()
        scaled = scaled and self.spiking
        self.scale = nn.Parameter(torch.empty(channels)) if scaled else None
        self.shift = nn.Parameter(torch.empty(channels)) if scaled else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """a = 1, b = 0."""
        if self.scale is not None and self.shift is not None:
            init.ones_(self.scale)
            init.zeros_(self.shift)

    @property
    def spiking(self) -> bool:
        """False in an ANN twin, which has no neurons."""
        return not isinstance(self.node, Activation)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        node = cast(Stateful, self.node)
        if x.dim() == 3:
            return node.functional(x, state, mask)
        # tokens do not meet in here, so padding needs no mask: the attention is what leaves it out
        spikes, _ = node.functional(x.flatten(1, 2))
        return spikes.view_as(x), {}

    def initialise(self, module: nn.Module) -> None:
        """`sj_lang.hf.models.initialise` of a module of the node."""
        models.initialise(module, self.node, self._fresh)


class SpikingLinear(nn.Linear):
    """y = W s + c, s = N(x): a Linear layer that the spikes of a `SpikingLayer` enter.

    Spikes that stand for values, a s + b, are multiplied by W a; W b is added to c. So what enters
    a product are whole numbers, in training too.

    Whoever owns both calls one after the other, because several Linear layers may read the same
    spikes (Q, K, V do) and a branch may need the spikes themselves.

    neurons: the layer whose spikes come in. It stays its owner's module, under its owner's name.
    out_features: channels of y. bias: add b.
    """

    def __init__(self, neurons: SpikingLayer, out_features: int, *, bias: bool = True) -> None:
        super().__init__(neurons.channels, out_features, bias=bias)
        self._neurons = (neurons,)  # in a tuple, or torch would register it here as well

    @property
    def neurons(self) -> SpikingLayer:
        return self._neurons[0]

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias for the spikes as they come."""
        scale, shift = self.neurons.scale, self.neurons.shift
        if scale is None or shift is None:
            return self.weight, self.bias
        if self.bias is None:
            raise ValueError("spikes with a shift need a Linear layer with a bias")
        return self.weight * scale, torch.addmv(self.bias, self.weight, shift)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, *self.folded())


def check_absorbable(norm: nn.Module | None) -> None:
    """UserError unless a norm is the same factor and summand for each position in evaluation."""
    if norm is not None and not hasattr(norm, "affine"):
        raise UserError(
            f"fold: {type(norm).__name__} depends on what it normalizes, so no Linear before it can absorb it; batch "
            "and power can be folded"
        )


@torch.no_grad()
def absorb(*pairs: tuple[nn.Linear, nn.Module | None]) -> None:
    """Give each Linear the weights and the bias with which it needs the norm after it no longer.

    UserError if one of the norms cannot be absorbed; then no Linear is changed.
    """
    for _, norm in pairs:
        check_absorbable(norm)
    for linear, norm in pairs:
        if norm is not None:
            scale, shift = norm.affine()  # type: ignore[operator]
            linear.bias = nn.Parameter(shift.clone() if linear.bias is None else linear.bias * scale + shift)
            linear.weight.mul_(scale[:, None])


class Activation(nn.Module):
    """Stands in an ANN twin for a node: the same call, no parameters, no state."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        return self.function(x), {}


def float_in_place_of_spikes(*, channels: int) -> nn.Module:
    """The twin's `neuron` everywhere but inside the MLP: the identity."""
    return Activation(nn.Identity())


def gelu_in_place_of_spikes(*, channels: int) -> nn.Module:
    """The twin's `neuron` between the two Linear layers of the MLP."""
    return Activation(nn.GELU())


class Potentials(nn.Module):
    """Neurons that do not fire: the potentials H of N are handed on (ours), a baseline of floats.

    neuron: builds a `sj_lang.neuron.Node` with `never_reset`; UserError otherwise.
    """

    def __init__(self, *, neuron: MakeNeuron, channels: int) -> None:
        super().__init__()
        node = neuron(channels=channels)
        if not (isinstance(node, Node) and node.never_reset):
            raise UserError(
                f"model.fires is false, but {type(node).__name__} has no potential without its spikes; take a neuron "
                "without reset: dsn, bpsn or sliding_psn"
            )
        node.store_v_seq = True
        self.node = node

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        _, after, potentials = self.node.advance(x, state, mask, single=False)
        return cast(Tensor, potentials).to(x.dtype), after


def outside(x: Tensor) -> Tensor:
    """The output of a model: `[L, B, D]`, or the mean over T of `[T, B, L, D]`, to `[B, L, D]`."""
    return x.mean(0) if x.dim() == 4 else x.transpose(0, 1)


def inner(state: State | None, name: str) -> State | None:
    """The state of the part `name` out of a state that `joined` has made."""
    if state is None:
        return None
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def joined(**parts: State) -> State:
    """One flat state out of the states of parts: `{"qkv.h": ...}`."""
    return {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}
