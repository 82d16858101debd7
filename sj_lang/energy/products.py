"""What a forward pass costs: operations counted where they happen, and energy at 45 nm.

    E = 4.6 pJ x multiply-accumulates + 0.9 pJ x accumulations

A product with spikes costs an accumulation for each unit of each spike, so an integer spike of 3
costs three; any other product costs a multiply-accumulate for each term. 4.6 and 0.9 pJ are float32
at 45 nm, Horowitz, ISSCC 2014, as in most papers on spiking networks. Memory traffic,
normalizations, softmax, activations and sums of tensors are left out, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sj_lang.compat import spikingjelly
from sj_lang.monitor import intercepted, neuron_steps, nodes, undisturbed
from sj_lang.neuron import Node

MULTIPLY_ACCUMULATE, ACCUMULATE = 4.6, 0.9  # pJ
LEVELS = 255  # the largest spike

aten = torch.ops.aten
base: Any = spikingjelly("base")
reset_net: Any = spikingjelly("functional").reset_net
#: matrix products, and which of their arguments are multiplied
OPERANDS: Mapping[Any, tuple[int, int]] = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.addbmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.mv: (0, 1),
    aten.addmv: (1, 2),
    aten.dot: (0, 1),
    aten.convolution: (0, 1),
}
#: operators with products inside that are not counted: with them no figure is given
CLOSED = ("_rnn", "rnn_", "lstm", "gru", "_trilinear", "_native_multi_head_attention", "_transformer_encoder", "sparse")


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes are untyped
    """Counts the terms of matrix products and convolutions run inside, except those in neurons.

    macs: terms of products of other numbers. accumulations: of products with spikes, see `spikes`.
    Fused attention is run as two products. Padding of a convolution counts as if it held what is
    around it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0.0
        self.accumulations = 0.0
        self.neuron_steps: dict[str, int] = {}
        self.closed: set[str] = set()
        self._inside = False
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._open = ExitStack()
        self._nodes = nodes(model)
        self._foreign = any(
            isinstance(module, base.MemoryModule) and name not in self._nodes for name, module in model.named_modules()
        )

    def __enter__(self) -> Products:
        ours = {name: node for name, node in self._nodes.items() if isinstance(node, Node)}
        others = {name: node for name, node in self._nodes.items() if name not in ours}
        self._open.enter_context(sdpa_kernel(SDPBackend.MATH))
        self._open.enter_context(intercepted(ours, self._watch, "advance"))  # `forward` calls it
        self._open.enter_context(intercepted(others, self._watch))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._open.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._inside:
            return out
        if func.overloadpacket in OPERANDS:
            self._count(func.overloadpacket, args, kwargs or {}, out)
        elif any(part in func.overloadpacket.__name__ for part in CLOSED):
            self.closed.add(func.overloadpacket.__name__)
        return out

    def _count(self, packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> None:
        operands = [args[i] for i in OPERANDS[packet]]
        a, b = operands
        if packet is aten.convolution:
            terms = flop_registry[packet](*args, **kwargs, out_val=out) / 2
        else:
            terms = a.numel() * (b.shape[-1] if b.dim() > 1 else 1)
        rates = [spikes(x) for x in operands if x.untyped_storage().data_ptr() not in self._weights]
        if not rates:  # of parameters alone: nothing of the sample is in it
            return
        spike_rates = [rate for rate in rates if rate is not None]
        if spike_rates:
            self.accumulations += terms * min(spike_rates)
        else:
            self.macs += terms

    def _watch(self, name: str, node: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor, state: Any = None, mask: Tensor | None = None, **options: Any) -> Any:
            lead = 1 if options.get("single", getattr(node, "step_mode", "m") == "s") else 2
            self.neuron_steps[name] = self.neuron_steps.get(name, 0) + int(neuron_steps(x, mask, lead))
            self._inside = True
            try:
                return original(x, state, mask, **options)
            finally:
                self._inside = False

        return run

    def neurons(self) -> tuple[float, float] | None:
        """Multiply-accumulates and accumulations inside the neurons; None if a cost is unknown.

        That is so for a neuron that does not say what a step costs, or was not seen at work, such
        as SpikingJelly's own nodes.
        """
        if self._nodes.keys() != self.neuron_steps.keys() or self._foreign:
            return None
        macs = accumulations = 0.0
        for name, steps in self.neuron_steps.items():
            cost = getattr(self._nodes[name], "operations", lambda: None)()
            if cost is None:
                return None
            macs, accumulations = macs + steps * cost[0], accumulations + steps * cost[1]
        return macs, accumulations


def spikes(x: Tensor) -> float | None:
    """Mean spike of x, if it holds spikes up to one scale (0, s, 2s, ... 255 s); else None.

    The scale can be in the weights. Signs don't matter. All zeros are spikes that did not fire.
    """
    if x.is_complex():
        return None
    numbers = whole_numbers(x, torch.promote_types(x.dtype, torch.float32))
    return None if numbers is None else float(numbers[0].abs().sum(dtype=torch.float64)) / max(x.numel(), 1)


def whole_numbers(x: Tensor, dtype: torch.dtype, unit: float | None = None) -> tuple[Tensor, float] | None:
    """x as whole numbers up to `LEVELS`, of this dtype, and their unit; None if it is not that.

    unit: None is the smallest number that is not 0.
    """
    size = x.detach().to(dtype)
    fired = size[size != 0]
    if not fired.numel():
        return size, 1.0
    step = fired.abs().min() if unit is None else unit
    levels = size / step
    whole = levels.round()
    eps = torch.finfo(x.dtype if x.is_floating_point() else dtype).eps
    near = (levels - whole).abs() <= (4 * eps * levels.abs()).clamp(max=0.05)
    return (whole, float(step)) if bool(near.all()) and bool((levels.abs() <= LEVELS).all()) else None


def millijoules(macs: float, accumulations: float) -> float:
    """Energy at 45 nm."""
    return (MULTIPLY_ACCUMULATE * macs + ACCUMULATE * accumulations) * 1e-9


def energy(model: nn.Module, samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What a sample costs, in the mean over `samples`: the arguments of a forward pass of each.

    energy.mj: all of it. energy.synapses_mj: matrix products and convolutions, which is what papers
    state. energy.neurons_mj: the arithmetic of the neurons, as they declare it in `operations`; if
    one does not, or is not one of sj_lang's, this and energy.mj are missing. energy.macs,
    energy.accumulations: those of the synapses.

    Empty without samples, and for a model with products that cannot be counted (torch's LSTM and
    GRU, bilinear layers, sparse matrices). Each pass runs in evaluation mode from reset neurons;
    afterwards the model's mode and the random numbers are as before, and the neurons' memories
    reset.
    """
    counted, products = 0, Products(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of torch's own encoder
    try:
        with undisturbed(model), products:
            for sample in samples:
                reset_net(net=model)
                model(**sample)
                counted += 1
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        reset_net(net=model)
    if not counted or products.closed:
        return {}
    macs, accumulations = products.macs / counted, products.accumulations / counted
    synapses, inside = millijoules(macs, accumulations), products.neurons()
    figures = {"energy.synapses_mj": synapses}
    if inside is not None:
        neurons = millijoules(*inside) / counted
        figures = {"energy.mj": synapses + neurons, **figures, "energy.neurons_mj": neurons}
    return figures | {"energy.macs": macs, "energy.accumulations": accumulations}
