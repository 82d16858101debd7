"""Whether a model's neurons can do what it asks of them, by what they declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sj_lang import plugins
from sj_lang.build import Make, part
from sj_lang.errors import UserError

#: what a node fails at when a trait is missing
_LACKS = {
    "causal": "is not causal",
    "steps": "has no single-step mode",
    "carries_state": "cannot carry its state on",
    "takes_mask": "takes no mask",
    "any_length": "works on one fixed length",
}


def check_neurons(config: Any, *, pads: bool) -> None:
    """Refuse neurons that cannot do what the model (and padding) ask of them, by their declared traits."""
    if not hasattr(config, "requires"):
        return
    needs: Mapping[str, Mapping[str, str]] = config.requires(pads=pads)
    for key, reasons in needs.items():
        make = part("neuron", _at(config, key))
        lacking = [trait for trait in reasons if not make.traits.get(trait)]
        if lacking:
            faults = "; ".join(f"it {_LACKS[trait]}, and {reasons[trait]}" for trait in lacking)
            raise UserError(f"model.{key}: {_named(make)} cannot be used here: {faults}. {_suitable(list(reasons))}")


def _at(config: Any, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def _named(make: Make) -> str:
    """The neuron, with the options on which its declaration depends."""
    variants = plugins.get("neuron", make.name).variants
    deciding = [name for name in make.spec if any(condition.startswith(name + "=") for condition in variants)]
    options = ", ".join(f"{name}={make.spec[name]}" for name in deciding)
    return f"{make.name} ({options})" if options else make.name


def _suitable(traits: list[str]) -> str:
    names = []
    for neuron in plugins.all("neuron"):
        if neuron.missing:
            continue
        if all(neuron.traits.get(trait) for trait in traits):
            names.append(neuron.name)
            continue
        for condition, flags in neuron.variants.items():
            if all({**neuron.traits, **flags}.get(trait) for trait in traits):
                names.append(f"{neuron.name} with {condition}")
                break
    return f"Neurons that can: {', '.join(names)}" if names else "No installed neuron can"
