"""What a step of a neuron costs, as it declares it or, for SpikingJelly's nodes, as we count it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sj_lang.compat import spikingjelly

base: Any = spikingjelly("base")
Operations = tuple[float, float]

#: multiply-accumulates and accumulations of a step, equal to `operations` of the nodes that adapt
#: these classes
OF_SPIKINGJELLY: Mapping[str, Callable[[Any], Operations]] = {
    "IFNode": lambda node: (0, 1),
    "LIFNode": lambda node: (1, 1),
    "ParametricLIFNode": lambda node: (1, 1),
    "PSN": lambda node: (node.T, 0),
    "MaskedPSN": lambda node: (node.T, 0),
    "SlidingPSN": lambda node: (node.k, 0),
}


def foreign(model: nn.Module, ours: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """SpikingJelly's own neurons in a model, and others made like them."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, base.StepModule) and hasattr(module, "surrogate_function") and name not in ours
    }


def operations(node: Any) -> Operations | None:
    """The multiply-accumulates and accumulations of one step of one neuron; None if unknown."""
    if hasattr(node, "operations"):
        declared: Operations | None = node.operations()
        return declared
    rule = OF_SPIKINGJELLY.get(type(node).__name__) if type(node).__module__.startswith("spikingjelly.") else None
    return rule(node) if rule else None


def states(node: Any) -> int:
    """Bytes of the memories that SpikingJelly keeps in a node."""
    memories = node.named_memories() if hasattr(node, "named_memories") else ()
    kept = [value for _, value in memories if hasattr(value, "numel")]
    return sum(value.numel() * value.element_size() for value in kept)
