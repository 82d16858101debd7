"""From a checked section of a recipe to an object: parts are looked up by name and handed on.

`check_neurons` compares what components declare with what the model requires of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sj_lang import plugins
from sj_lang.component import schema, yaml_marks
from sj_lang.component.problems import report
from sj_lang.component.spec import Spec, resolve
from sj_lang.errors import PluginError, SjLangError, UserError, describe
from sj_lang.hookspecs import FLAGS

#: Kinds whose constructors get numbers and parts only: what fails there is the plugin's fault.
MODULES = ("neuron", "embedding", "attention", "norm")

#: trait -> what is said of a node without it
_LACKS = {
    "causal": "is not causal",
    "steps": "has no single-step mode",
    "carries_state": "cannot carry its state on",
    "takes_mask": "does not accept a mask",
    "any_length": "works on one fixed length",
}


class Make:
    """A component, chosen and configured; each call builds a fresh instance.

    name: what recipes call it. spec: checked, with all options written out.
    traits: the neuron's declaration, with the variants that the options choose.
    inside: of a neuron that wraps another one, that one.
    """

    def __init__(self, kind: str, spec: Mapping[str, Any]) -> None:
        registration = plugins.get(kind, spec["type"])
        self.kind, self.name, self.spec = kind, registration.name, spec
        self.target = registration.load()
        self._where = f"{kind} '{self.name}' of {registration.plugin} {registration.version}"
        self._arguments = schema.arguments(kind, self.target)
        ours = schema.OURS.get(kind, {})
        options = {name: value for name, value in spec.items() if name != "type" and name not in ours}
        self.traits: dict[str, bool | str] = dict(registration.traits)
        for condition, flags in registration.variants.items():
            option, _, value = condition.partition("=")
            if option in options and options[option] == yaml_marks.scalar(value):
                self.traits |= flags
        self._options = {name: self._part(name, value) for name, value in options.items()}
        inside = self._options.get(registration.wraps)
        self.inside: Make | None = inside if isinstance(inside, Make) else None
        if self.inside is not None:
            self.traits |= {flag: bool(self.traits[flag] and self.inside.traits[flag]) for flag in FLAGS}

    def _part(self, name: str, value: Any) -> Any:
        argument = self._arguments[name]
        return Make(argument.part, value) if argument.part and value is not None and self.kind != "model" else value

    def __call__(self, **handed_in: Any) -> Any:
        """Build one. What the program hands in wins over an option of that name.

        Arguments of `schema.HANDED_IN` that the class does not have are left out; any other is a
        TypeError. A ValueError, by which a class refuses a value, passes. Anything else that a
        module's constructor raises becomes a PluginError.
        """
        if self.kind != "model":  # a config takes whatever the data say
            strange = [name for name in handed_in if name not in self._arguments]
            if unusual := [name for name in strange if name not in schema.HANDED_IN[self.kind]]:
                raise TypeError(f"{self._where}: unexpected keyword argument '{unusual[0]}'")
            handed_in = {name: value for name, value in handed_in.items() if name not in strange}
        options = {**self._options, **handed_in}
        if self.kind not in MODULES:
            return self.target(**options)
        try:
            module = self.target(**options)
        except (ValueError, SjLangError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a plugin is foreign code
            raise PluginError(f"{self._where}: building it failed: {describe(error)}") from error
        if isinstance(module, torch.nn.Module):
            vars(module)["built_as"] = self._where  # for `blame`
        return module

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.spec.items() if name != "type")
        return f"{self.name}({options})"


def part(kind: str, spec: str | Mapping[str, Any]) -> Make:
    """Check a component: a name, or `{"type": name, **options}`. A UserError lists all mistakes."""
    if isinstance(spec, Spec) and spec.proves(kind):
        return Make(kind, spec)
    resolved, problems = resolve(kind, spec)
    if problems:
        raise report([problem.under(kind) for problem in problems], f"this {kind}")
    return Make(kind, resolved)


def blame(error: BaseException) -> str:
    """The innermost component in which an error was raised, with its plugin; "" if in none."""
    name, trace = "", error.__traceback__
    while trace is not None:
        name = getattr(trace.tb_frame.f_locals.get("self"), "built_as", "") or name
        trace = trace.tb_next
    return name


def check_neurons(config: Any, *, pads: bool) -> None:
    """Refuse components whose declared traits are not what the model or its padding requires."""
    if not hasattr(config, "requires"):
        return
    needs: Mapping[str, Mapping[str, str]] = config.requires(pads=pads)
    for key, reasons in needs.items():
        kind = key.rpartition(".")[2]
        kind = kind if kind in MODULES else "neuron"
        make = part(kind, _at(config, key))
        lacking = [trait for trait in reasons if not make.traits.get(trait)]
        if lacking:
            faults = "; ".join(f"it {_LACKS[trait]}, and {reasons[trait]}" for trait in lacking)
            raise UserError(
                f"model.{key}: {_named(make)} cannot be used here: {faults}. {_suitable(kind, list(reasons))}"
            )


def _at(config: Any, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def _named(make: Make) -> str:
    """The component, with the options on which its declaration depends."""
    if make.inside is not None:
        return f"{make.name} of {_named(make.inside)}"
    variants = plugins.get(make.kind, make.name).variants
    deciding = [name for name in make.spec if any(condition.startswith(name + "=") for condition in variants)]
    options = ", ".join(f"{name}={make.spec[name]}" for name in deciding)
    return f"{make.name} ({options})" if options else make.name


def _suitable(kind: str, traits: list[str]) -> str:
    names, wrappers = [], []
    for one in plugins.all(kind):
        if one.missing:
            continue
        if one.wraps:
            wrappers += [f"{one.name} of one of these"] if all(one.traits.get(trait) for trait in traits) else []
        elif all(one.traits.get(trait) for trait in traits):
            names.append(one.name)
        else:
            able = (c for c, flags in one.variants.items() if all({**one.traits, **flags}.get(t) for t in traits))
            names += [f"{one.name} with {condition}" for condition in able][:1]
    return f"{kind.capitalize()}s that can: {', '.join(names + wrappers)}" if names else f"No installed {kind} can"
