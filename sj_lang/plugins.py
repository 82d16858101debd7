"""Find, check and tabulate plugins. Only this file manages hooks; its import loads no plugin."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from sj_lang.errors import PluginError, UserError, choices, describe, nearest
from sj_lang.hookspecs import KINDS, HookSpecs, Register, Registration

GROUP = "sj_lang"
SWITCH = "SJ_LANG_PLUGINS"


@dataclass(frozen=True)
class Plugin:
    """An installed plugin. error: why it is refused, "" if it works."""

    name: str
    module: str
    distribution: str
    version: str
    error: str = ""

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


class Registry:
    """The plugins of one process, each loaded on its own, and what the sound ones offer."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        self.plugins: list[Plugin] = []
        self._offers: dict[tuple[str, str], list[tuple[Plugin, Registration]]] = {}
        self._recipes: dict[str, list[tuple[Plugin, Path]]] = {}

    def load(self, entry: EntryPoint) -> None:
        """Load an entry point. What goes wrong is kept with the plugin and disturbs no other."""
        metadata = entry.dist.metadata if entry.dist else {"Name": "unknown distribution", "Version": "?"}
        plugin = Plugin(entry.name, entry.value, metadata["Name"], metadata["Version"])
        try:
            module = entry.load()
        except (Exception, SystemExit) as error:  # foreign code must not stop the others
            self._refuse(plugin, f"importing {entry.value} failed: {describe(error)}")
            return
        self.add(module, plugin)

    def add(self, module: object, plugin: Plugin) -> None:
        """Check the hooks of a loaded plugin and take what it registers, all of it or nothing."""
        register = Register(plugin.distribution, plugin.version)
        key = f"{plugin.distribution}:{plugin.name}"
        others = set(self._manager.get_plugins())
        try:
            self._manager.register(module, key)
            self._manager.check_pending()
            if not self._manager.get_hookcallers(module):
                raise ValueError(
                    f"{plugin.module} has no hook: decorate sj_lang_register with sj_lang.hookspecs.hookimpl"
                )
            self._manager.subset_hook_caller("sj_lang_register", others)(register=register)
            recipes = [pair for folder in register.recipe_folders for pair in _find_recipes(folder)]
        except (Exception, SystemExit) as error:
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            self._refuse(plugin, _explain(error))
            return
        self.plugins.append(plugin)
        for registration in register.registrations:
            self._offers.setdefault((registration.kind, registration.name), []).append((plugin, registration))
        for name, path in recipes:
            self._recipes.setdefault(name, []).append((plugin, path))

    def broken(self) -> list[Plugin]:
        """The plugins that were refused."""
        return [plugin for plugin in self.plugins if plugin.error]

    def clashes(self) -> dict[tuple[str, str], str]:
        """(kind, name) -> message, for names offered by several plugins; also of kind "recipe"."""
        offered = {key: [plugin for plugin, _ in offers] for key, offers in self._offers.items()}
        offered |= {("recipe", name): [plugin for plugin, _ in offers] for name, offers in self._recipes.items()}
        return {
            (kind, name): f"{kind} '{name}' is offered by {' and by '.join(map(str, owners))}; "
            f"uninstall one, or choose with {SWITCH}"
            for (kind, name), owners in sorted(offered.items())
            if len(owners) > 1
        }

    def all(self, kind: str) -> list[Registration]:
        """The usable components of a kind, by name."""
        if kind not in KINDS:
            raise UserError(f"no such kind of component: '{kind}'; {choices(kind, KINDS)}")
        return [offers[0][1] for (k, _), offers in sorted(self._offers.items()) if k == kind and len(offers) == 1]

    def get(self, kind: str, name: str) -> Registration:
        """The component of that name. UserError, or PluginError if a plugin's failure is why."""
        registrations = {registration.name: registration for registration in self.all(kind)}
        if name in registrations:
            return registrations[name]
        if (kind, name) in self._offers:
            raise PluginError(self.clashes()[kind, name])
        failures = "; ".join(f"{one}, which may offer it, failed to load: {one.error}" for one in self.broken())
        if failures and not nearest(name, registrations):
            raise PluginError(f"no {kind} '{name}': {failures}")
        hint = choices(name, list(registrations))
        if not hint:
            hint = f"list them with `sj-lang plugins {kind}`" if registrations else f"no plugin offers any {kind}"
        raise UserError(f"no {kind} '{name}'; {hint}{failures and '; ' + failures}")

    def recipes(self) -> dict[str, Path]:
        """Recipe name -> file, of all plugins; names offered twice are left out."""
        return {name: offers[0][1] for name, offers in sorted(self._recipes.items()) if len(offers) == 1}

    def _refuse(self, plugin: Plugin, error: str) -> None:
        self.plugins.append(replace(plugin, error=error))


def _explain(error: BaseException) -> str:
    if isinstance(error, pluggy.PluginValidationError):
        text = " ".join(str(error).split())
        misspelt = re.search(r"unknown hook '(\w+)'", text)
        hooks = ", ".join(name for name in vars(HookSpecs) if not name.startswith("_"))
        return f"unknown hook '{misspelt[1]}'; hooks: {hooks}" if misspelt else text
    return str(error) if isinstance(error, ValueError) else describe(error)


def _find_recipes(folder: str) -> list[tuple[str, Path]]:
    package, _, inner = folder.partition(":")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    roots = [root for root in (Path(place) / inner for place in places or []) if root.is_dir()]
    if not roots:
        raise ValueError(f"it offers recipes in '{folder}', which does not exist")
    paths = [(root, path) for root in roots for path in sorted(root.rglob("*.yaml"))]
    return [(path.relative_to(root).with_suffix("").as_posix(), path) for root, path in paths]


def chosen(installed: Iterable[EntryPoint], switch: str | None) -> list[EntryPoint]:
    """The entry points that the environment variable lets through: all, none (""), or a list."""
    entries = sorted(installed, key=lambda entry: (entry.name, entry.value))
    if switch is None:
        return entries
    switched_on = [name.strip() for name in switch.split(",") if name.strip()]
    names = sorted({entry.name for entry in entries})
    for name in set(switched_on) - set(names):
        raise UserError(f"{SWITCH} names a plugin that is not installed: '{name}'; {choices(name, names, limit=99)}")
    return [entry for entry in entries if entry.name in switched_on]


_registry: Registry | None = None


def registry() -> Registry:
    """The process's registry; the installed plugins are loaded on the first call."""
    global _registry
    if _registry is None:
        fresh = Registry()
        for entry in chosen(entry_points(group=GROUP), os.environ.get(SWITCH)):
            fresh.load(entry)
        _registry = fresh
    return _registry


@contextmanager
def use(fresh: Registry) -> Iterator[Registry]:
    """Replace the process's registry for a while, in tests."""
    global _registry
    before, _registry = _registry, fresh
    try:
        yield fresh
    finally:
        _registry = before


def get(kind: str, name: str) -> Registration:
    """`Registry.get` of the process's registry."""
    return registry().get(kind, name)


def all(kind: str) -> list[Registration]:
    """`Registry.all` of the process's registry."""
    return registry().all(kind)


def recipes() -> Mapping[str, Path]:
    """`Registry.recipes` of the process's registry."""
    return registry().recipes()


def table() -> dict[str, Any]:
    """All that is installed, as plain data: components by kind, plugins with errors, clashes."""
    current = registry()
    return {
        "components": {kind: [row(registration) for registration in current.all(kind)] for kind in KINDS},
        "plugins": [asdict(plugin) for plugin in current.plugins],
        "clashes": list(current.clashes().values()),
    }


def row(registration: Registration) -> dict[str, Any]:
    """A registration as plain data."""
    cells = {entry.name: getattr(registration, entry.name) for entry in fields(registration) if entry.name != "kind"}
    cells["traits"] = dict(registration.traits)
    cells["variants"] = {condition: dict(flags) for condition, flags in registration.variants.items()}
    return cells
