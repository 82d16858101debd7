"""From a checked section of a recipe to an object: parts are looked up by name and handed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sj_lang import plugins
from sj_lang.component import schema, yaml_marks
from sj_lang.component.problems import report
from sj_lang.component.spec import Spec, resolve
from sj_lang.errors import PluginError, SjLangError, describe

#: Kinds whose constructors get numbers and other parts only: what fails there is the plugin's fault.
MODULES = ("neuron", "embedding", "attention", "norm")


class Make:
    """A component, chosen and configured; each call builds a fresh instance.

    name: what recipes call it. spec: checked, with all options written out.
    traits: the neuron's declaration, with the variants that the options choose.
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

    def _part(self, name: str, value: Any) -> Any:
        argument = self._arguments[name]
        return Make(argument.part, value) if argument.part and value is not None and self.kind != "model" else value

    def __call__(self, **handed_in: Any) -> Any:
        """Build one. What the program hands in wins over an option of that name.

        Arguments of `schema.GIVEN` that the class does not have are left out; any other is a
        TypeError. A ValueError, by which a class refuses a value, passes. Anything else that a
        module's constructor raises is a PluginError that names the plugin.
        """
        if self.kind != "model":  # a config takes whatever the data say
            strange = [name for name in handed_in if name not in self._arguments]
            if unusual := [name for name in strange if name not in schema.GIVEN[self.kind]]:
                raise TypeError(f"{self._where}: unexpected keyword argument '{unusual[0]}'")
            handed_in = {name: value for name, value in handed_in.items() if name not in strange}
        options = {**self._options, **handed_in}
        if self.kind not in MODULES:
            return self.target(**options)
        try:
            return self.target(**options)
        except (ValueError, SjLangError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a plugin is foreign code
            raise PluginError(f"{self._where}: building it failed: {describe(error)}") from error

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.spec.items() if name != "type")
        return f"{self.name}({options})"


def part(kind: str, spec: str | Mapping[str, Any]) -> Make:
    """Check a component, a name or `{"type": name, **options}`. One UserError lists all mistakes."""
    if isinstance(spec, Spec) and spec.proves(kind):
        return Make(kind, spec)
    resolved, problems = resolve(kind, spec)
    if problems:
        raise report([problem.under(kind) for problem in problems], f"this {kind}")
    return Make(kind, resolved)
