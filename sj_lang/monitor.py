"""How a network fires: spikes counted where they leave the neurons; the model is not changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sj_lang import masks
from sj_lang.neuron import Node

#: spikes of a channel, of at most 255 each, whose sum float32 holds exactly
_EXACT = 2**24 // 255
#: of a histogram of decays, from 0 to 1
_BINS = 20
Functional = Callable[..., tuple[Tensor, Any]]


def nodes(model: nn.Module) -> dict[str, nn.Module]:
    """The spiking neurons of a model: modules with `functional`, `init_state` and `levels`.

    A neuron inside another one is a part of it.
    """
    marks = ("functional", "init_state", "levels")
    outermost: dict[str, nn.Module] = {}
    parts: set[int] = set()
    for name, module in model.named_modules():
        if id(module) not in parts and all(hasattr(module, one) for one in marks):
            outermost[name] = module
            parts |= {id(part) for part in module.modules()}
    return outermost


def decays(model: nn.Module) -> dict[str, Tensor]:
    """`<layer> <name>` -> the decays of a layer's channels, in 0 to 1, as they are learned."""
    tellers = {name: getattr(node, "decays", None) for name, node in nodes(model).items()}
    return {
        f"{name} {kind}": values.detach().to("cpu", torch.float32)
        for name, tell in tellers.items()
        if tell is not None
        for kind, values in tell().items()
    }


def decay_histograms(model: nn.Module) -> dict[str, list[int]]:
    """`decays.<layer> <name>` -> how many channels there are in each twentieth of 0 to 1."""
    counts = {name: torch.histc(values, _BINS, 0, 1) for name, values in decays(model).items()}
    return {f"decays.{name}": [int(count) for count in counted] for name, counted in counts.items()}


def neuron_tensors(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of spiking neurons and of modules with `of_neurons = True`, the spikes' scales."""
    inside = [p for node in nodes(model).values() for p in node.parameters()]
    beside = [p for one in model.modules() if getattr(one, "of_neurons", False) for p in one.parameters(recurse=False)]
    return list({id(parameter): parameter for parameter in inside + beside}.values())


def neuron_parameters(model: nn.Module) -> int:
    """Parameters inside spiking neurons, each counted once."""
    owned = {id(p): p.numel() for module in nodes(model).values() for p in module.parameters()}
    return sum(owned.values())


@contextmanager
def intercepted(
    watched: Mapping[str, nn.Module],
    watch: Callable[[str, nn.Module, Functional], Functional],
    method: str = "functional",
) -> Iterator[None]:
    """Inside, `watch(name, node, method)` replaces each node's method, which models call."""
    for name, node in watched.items():
        setattr(node, method, watch(name, node, getattr(node, method)))
    try:
        yield
    finally:
        for node in watched.values():
            delattr(node, method)


def neuron_steps(x: Tensor, mask: Tensor | None, lead: int) -> Tensor | int:
    """Valid steps times neurons of a call. lead: how many axes stand before the channels."""
    valid = x.shape[:lead].numel() if mask is None else mask.sum()
    return valid * x.shape[lead:].numel()


@dataclass(kw_only=True)
class LayerFiring:
    """Counts of one layer, summed over all calls since `Monitor.reset`.

    rate: |spikes| / levels, mean over valid steps and neurons; 1 is the most at every step.
    dead: share of channels that never fired. saturated: of those that fired at every valid step.
    longest: the longest uninterrupted run of spikes of a neuron within a call, in valid steps; 0 of
    calls of single steps.
    """

    levels: float
    spikes: Tensor  # int64 scalar: sum of the sizes of the spikes, which are integers
    steps: Tensor  # int64 scalar: valid steps x neurons
    fired: Tensor  # bool [channels]
    silent: Tensor  # bool [channels]: at any valid step
    longest: Tensor  # int64 scalar

    @property
    def rate(self) -> float:
        return int(self.spikes) / self.levels / max(int(self.steps), 1)

    @property
    def dead(self) -> float:
        return 1.0 - int(self.fired.sum()) / self.fired.numel()

    @property
    def saturated(self) -> float:
        return int((self.fired & ~self.silent).sum()) / self.fired.numel()


class Monitor:
    """Counts, and on demand keeps, the spikes of a model's neurons while `recording()` is open."""

    def __init__(self, model: nn.Module) -> None:
        self.nodes = nodes(model)
        self.layers: dict[str, LayerFiring] = {}
        self.rasters: dict[str, list[Tensor]] = {}

    def reset(self) -> None:
        self.layers = {}
        self.rasters = {}

    @contextmanager
    def recording(self, *, keep: bool = False) -> Iterator[Monitor]:
        """Watch all calls made inside. keep: add their spikes, [T, B, C, ...], to `rasters`."""
        called = {name: node for name, node in self.nodes.items() if isinstance(node, Node)}
        with (
            intercepted(self.nodes, lambda name, node, original: self._watch(name, node, original, keep)),
            intercepted(called, lambda name, node, original: self._watch_called(name, node, original, keep), "called"),
        ):
            yield self

    def _watch(self, name: str, node: nn.Module, original: Functional, keep: bool) -> Functional:
        def functional(x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
            spikes, state = original(x, state, mask)
            self._note(name, node, spikes, mask, keep, single=getattr(node, "step_mode", "m") == "s")
            return spikes, state

        return functional

    def _watch_called(self, name: str, node: nn.Module, original: Any, keep: bool) -> Any:
        """As `_watch`, of a node that a network calls as a module, state in it."""

        def called(x: Tensor, mask: Tensor | None, *, single: bool) -> Tensor:
            spikes: Tensor = original(x, mask, single=single)
            self._note(name, node, spikes, mask, keep, single=single)
            return spikes

        return called

    @torch.no_grad()
    def _note(
        self, name: str, node: nn.Module, spikes: Tensor, mask: Tensor | None, keep: bool, *, single: bool
    ) -> None:
        self._count(name, node, spikes.detach(), mask, 1 if single else 2)
        if keep:
            self.rasters.setdefault(name, []).append(spikes.detach().to("cpu", torch.float32))

    def _count(self, name: str, node: nn.Module, spikes: Tensor, mask: Tensor | None, lead: int) -> None:
        channels = masks.channel_axis(node, spikes, lead == 1)
        others = [other for other in range(spikes.dim()) if other != channels]
        # masked steps hold zeros: they add no spikes and are not counted as steps
        sizes = spikes.abs()
        many = spikes.numel() > _EXACT * spikes.shape[channels]
        total = sizes.sum(others, dtype=torch.float64 if many else torch.float32)  # [C]
        fired, total = total > 0, total.to(torch.int64).sum()
        fires = sizes.bool()
        if mask is None:
            always = fires
        else:
            shape = (*mask.shape, *[1] * (spikes.dim() - lead))
            always = fires | ~mask.view(shape)
            if lead == 2:  # valid steps first: padding interrupts no run
                fires = fires.gather(0, masks.orders(mask, 0)[0].view(shape).expand_as(fires))
        silent = always.view(torch.uint8).amin(others) == 0
        longest = torch.tensor(_longest_run(fires) if lead == 2 else 0, device=spikes.device)
        steps = torch.as_tensor(neuron_steps(spikes, mask, lead), device=spikes.device, dtype=torch.int64)
        if name not in self.layers:
            levels = float(cast(Any, node.levels))
            self.layers[name] = LayerFiring(
                levels=levels, spikes=total, steps=steps, fired=fired, silent=silent, longest=longest
            )
            return
        layer = self.layers[name]
        layer.spikes, layer.steps, layer.fired = layer.spikes + total, layer.steps + steps, layer.fired | fired
        layer.silent, layer.longest = layer.silent | silent, torch.maximum(layer.longest, longest)

    def figures(self) -> dict[str, float]:
        """`firing_rate.`, `dead.`, `saturated.` (with `mean` and `<layer>`) and `longest_run.`
        (with `max`); empty without spiking neurons.

        The mean rate weighs each neuron step alike; the mean shares weigh each channel alike.
        """
        if not self.layers:
            return {}
        layers = list(self.layers.values())
        steps = sum(int(layer.steps) for layer in layers)
        channels = sum(layer.fired.numel() for layer in layers)
        values = {
            "firing_rate.mean": sum(layer.rate * int(layer.steps) for layer in layers) / max(steps, 1),
            "dead.mean": 1.0 - sum(int(layer.fired.sum()) for layer in layers) / channels,
            "saturated.mean": sum(layer.saturated * layer.fired.numel() for layer in layers) / channels,
            "longest_run.max": float(max(int(layer.longest) for layer in layers)),
        }
        values.update({f"firing_rate.{name}": layer.rate for name, layer in self.layers.items()})
        values.update({f"dead.{name}": layer.dead for name, layer in self.layers.items()})
        values.update({f"saturated.{name}": layer.saturated for name, layer in self.layers.items()})
        values.update({f"longest_run.{name}": float(layer.longest) for name, layer in self.layers.items()})
        return values

    def combine(self, total: Callable[[Tensor], Tensor], gather: Callable[[Tensor], Tensor]) -> None:
        """Add up the counts of several processes. total: sums a tensor over them. gather: a scalar
        of each, as a vector."""
        for layer in self.layers.values():
            layer.spikes, layer.steps = total(layer.spikes), total(layer.steps)
            layer.fired = total(layer.fired.to(torch.int32)) > 0
            layer.silent = total(layer.silent.to(torch.int32)) > 0
            layer.longest = gather(layer.longest).max()

    def raster(self) -> dict[str, Tensor]:
        """Layer -> spikes of a single recorded sample, [steps, channels].

        With individual coding a step is a token; with repeat coding, step = token * T + t.
        """
        spikes = {name: torch.cat(calls) for name, calls in self.rasters.items()}
        return {name: x.flatten(2).transpose(0, 1).flatten(0, 1) if x.dim() > 2 else x for name, x in spikes.items()}


def _any(flags: Tensor) -> bool:
    """`flags.any()`, in a tenth of its time on the CPU."""
    return flags.numel() > 0 and bool(flags.view(torch.uint8).amax())


def _longest_run(fires: Tensor) -> int:
    """The most steps in a row, axis 0, at which a neuron fires: by doubling, then by halving."""
    runs = [fires]  # at k: whether a run of 2^k steps begins at a step
    while len(runs[-1]) > (half := 2 ** (len(runs) - 1)):
        longer = runs[-1][:-half] & runs[-1][half:]
        if not _any(longer):
            break
        runs.append(longer)
    length, begins = 0, torch.ones_like(fires)
    for place, shorter in reversed(list(enumerate(runs))):
        room = len(fires) - length - 2**place + 1
        longer = begins[:room] & shorter[length:] if room > 0 else begins[:0]
        if _any(longer):
            length, begins = length + 2**place, longer
    return length


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, random numbers are those of `seed`; afterwards they go on as if none was drawn."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = device.type if device is not None else "cuda"
    python, array = random.getstate(), np.random.get_state()
    indices = [torch.accelerator.current_device_index()] if device is not None else []
    with torch.random.fork_rng(indices, device_type=kind):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model evaluates, without gradients and with fixed random numbers."""
    modes = {module: module.training for module in model.modules()}
    with seeded(0), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
