"""From the words of a recipe to objects: parts are found here, by name, and handed to the parts that need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sj_lang import plugins
from sj_lang.component import schema, yaml_marks
from sj_lang.component.problems import report
from sj_lang.component.spec import Spec, resolve
from sj_lang.errors import PluginError, SjLangError, describe

#: Kinds whose constructors get nothing but numbers and other parts: what goes wrong in there is the plugin's own.
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

    def __call__(self, **given: Any) -> Any:
        """Build one. `given` is what the program hands in, and wins over an option of that name; of the usual things,
        what the class does not ask for is left out, anything else that it does not ask for is a TypeError.

        A ValueError is how a class refuses a value, and passes. Anything else that a module's constructor raises is a
        PluginError that names the plugin."""
        if self.kind != "model":  # a config takes whatever the data say
            usual = schema.GIVEN[self.kind]
            given = {name: value for name, value in given.items() if name in self._arguments or name not in usual}
            if strange := [name for name in given if name not in self._arguments]:
                raise TypeError(f"{self._where}: unexpected keyword argument '{strange[0]}'")
        options = {**self._options, **given}
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
    """Look up and check a component: a name, or `{"type": name, **options}`. All mistakes are told in one UserError."""
    if isinstance(spec, Spec) and spec.proves(kind):
        return Make(kind, spec)
    resolved, problems = resolve(kind, spec)
    if problems:
        raise report([problem.under(kind) for problem in problems], f"this {kind}")
    return Make(kind, resolved)
