"""The contract between sj_lang and its plugins: one hook, and what a plugin may register in it.

A plugin is a module named by an entry point of the group `sj_lang`:

    from sj_lang.hookspecs import Register, hookimpl

    @hookimpl
    def sj_lang_register(register: Register) -> None:
        register.neuron("mine", "my_package.mine:Mine", summary="...", causal=True, steps=True,
                        carries_state=True, takes_mask=True, any_length=True,
                        parameters_per_channel="1")

A registration is a declaration: text and flags. The target is imported on first use, so this module
must import nothing heavy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from sj_lang.errors import PluginError, UserError, describe
from sj_lang.hf import shield

KINDS = ("neuron", "embedding", "attention", "norm", "model", "task", "tokenizer", "source")
FLAGS = ("causal", "steps", "carries_state", "takes_mask", "any_length")

hookimpl = pluggy.HookimplMarker("sj_lang")
hookspec = pluggy.HookspecMarker("sj_lang")


class HookSpecs:
    """The hooks of sj_lang."""

    @hookspec
    def sj_lang_register(self, register: Register) -> None:
        """Offer components and recipes: call the methods of `register`."""


@dataclass(frozen=True)
class Registration:
    """One component that a plugin offers.

    kind: one of `KINDS`. name: what recipes call it. target: "package.module:Class".
    plugin, version: of the distribution. missing: why it cannot be used here, "" if it can.
    traits: for neurons, the `FLAGS` and `parameters_per_channel`; for embeddings and attentions
        `causal`.
    variants: "option=value" -> the flags that are different when the option has that value.
    wraps: the option that is a neuron too: a flag holds if that one has it as well. "": none.
    """

    kind: str
    name: str
    target: str
    summary: str
    cite: str = ""
    plugin: str = ""
    version: str = ""
    missing: str = ""
    traits: Mapping[str, bool | str] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    wraps: str = ""

    def load(self) -> Any:
        """Import the target. UserError if it is not available here, PluginError if that fails."""
        where = f"{self.kind} '{self.name}' of {self.plugin} {self.version}"
        if self.missing:
            raise UserError(f"{where} is not available here: {self.missing}")
        module_name, _, attribute = self.target.partition(":")
        try:
            shield()
            module = importlib.import_module(module_name)
        except (UserError, PluginError):
            raise
        except Exception as error:
            raise PluginError(f"{where}: importing {module_name} failed: {describe(error)}") from error
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise PluginError(f"{where}: {module_name} has no '{attribute}'") from error


class Register:
    """What `sj_lang_register` gets. A wrong declaration raises, and the plugin is refused."""

    def __init__(self, plugin: str, version: str) -> None:
        self._plugin, self._version = plugin, version
        self.registrations: list[Registration] = []
        self.recipe_folders: list[str] = []

    def neuron(
        self,
        name: str,
        target: str,
        *,
        summary: str,
        cite: str = "",
        causal: bool,
        steps: bool,
        carries_state: bool,
        takes_mask: bool,
        any_length: bool,
        parameters_per_channel: str,
        variants: Mapping[str, Mapping[str, bool]] | None = None,
        wraps: str = "",
        missing: str = "",
    ) -> None:
        """Offer a spiking neuron (a MemoryModule with `functional`).

        causal: the output at step t depends on steps <= t only.
        steps: works one step at a time (step_mode "s").
        carries_state: a sequence in pieces with carried state equals the whole.
        takes_mask: masked steps are removed, not zeroed.
        any_length: works on lengths not known when it is built.
        parameters_per_channel: text for people, such as "1 (tau)".
        variants: flags that an option changes, such as {"direction=both": {"causal": False}}.
        wraps: the option that is a neuron too, as `of` of a neuron in sub-steps: a flag holds if it
            is declared here and holds for that one.
        """
        values = (causal, steps, carries_state, takes_mask, any_length)
        traits: dict[str, bool | str] = dict(zip(FLAGS, values, strict=True))
        variants = dict(variants or {})
        for flags in [traits, *variants.values()]:
            for flag, value in flags.items():
                if flag not in FLAGS or not isinstance(value, bool):
                    raise ValueError(f"neuron '{name}': {flag}={value!r}; flags: {', '.join(FLAGS)}, True or False")
        for condition in variants:
            if not re.fullmatch(r"[A-Za-z_]\w*=.*", condition):
                raise ValueError(f"neuron '{name}': a variant is 'option=value', got '{condition}'")
        if wraps and not wraps.isidentifier():
            raise ValueError(f"neuron '{name}': wraps is the name of an option, got '{wraps}'")
        traits["parameters_per_channel"] = str(parameters_per_channel)
        about = {"summary": summary, "cite": cite, "missing": missing}
        self._add("neuron", name, target, **about, traits=traits, variants=variants, wraps=wraps)

    def embedding(
        self, name: str, target: str, *, summary: str, cite: str = "", causal: bool = False, missing: str = ""
    ) -> None:
        """Offer an embedding: token ids [L, B] to currents or spikes [L, B, D].

        causal: a token depends on itself and those before it only; causal models take no other.
        """
        self._add("embedding", name, target, summary=summary, cite=cite, missing=missing, traits={"causal": causal})

    def attention(
        self, name: str, target: str, *, summary: str, cite: str = "", causal: bool = False, missing: str = ""
    ) -> None:
        """Offer an attention over tokens.

        causal: built with `causal=True`, a token meets itself and those before it only, and the
        state carries these on; causal models take no other.
        """
        self._add("attention", name, target, summary=summary, cite=cite, missing=missing, traits={"causal": causal})

    def norm(self, name: str, target: str, *, summary: str, cite: str = "", missing: str = "") -> None:
        """Offer a normalization that takes `mask`."""
        self._add("norm", name, target, summary=summary, cite=cite, missing=missing)

    def model(self, name: str, target: str, *, summary: str, cite: str = "", missing: str = "") -> None:
        """Offer a model: its config class, whose fields are the schema of the recipe's `model:`."""
        self._add("model", name, target, summary=summary, cite=cite, missing=missing)

    def task(self, name: str, target: str, *, summary: str, cite: str = "", missing: str = "") -> None:
        """Offer a task: data to batches to metrics."""
        self._add("task", name, target, summary=summary, cite=cite, missing=missing)

    def tokenizer(self, name: str, target: str, *, summary: str, cite: str = "", missing: str = "") -> None:
        """Offer a tokenizer."""
        self._add("tokenizer", name, target, summary=summary, cite=cite, missing=missing)

    def source(self, name: str, target: str, *, summary: str, cite: str = "", missing: str = "") -> None:
        """Offer a named data source for `task.data`."""
        self._add("source", name, target, summary=summary, cite=cite, missing=missing)

    def recipes(self, folder: str) -> None:
        """Offer the recipes (*.yaml, at any depth) of "package:folder", named by paths in it."""
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[^:]*", folder):
            raise ValueError(f"recipes are 'package:folder' or 'package:', got '{folder}'")
        self.recipe_folders.append(folder)

    def _add(self, kind: str, name: str, target: str, *, summary: str, **fields: Any) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise ValueError(f"{kind} name '{name}': use small letters, digits, '_', '-' and '.'")
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", target):
            raise ValueError(f"{kind} '{name}': the target is 'package.module:Class', got '{target}'")
        if not summary.strip():
            raise ValueError(f"{kind} '{name}': the summary is empty")
        if any(r.kind == kind and r.name == name for r in self.registrations):
            raise ValueError(f"{kind} '{name}' is registered twice by the same plugin")
        offer = {"summary": summary, "plugin": self._plugin, "version": self._version, **fields}
        self.registrations.append(Registration(kind, name, target, **offer))
