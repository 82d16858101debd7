"""How plain transformers finds the classes of a stored model: a module that imports them, which
`auto_map` of config.json names. It runs only if somebody passes `trust_remote_code=True`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from sj_lang import plugins
from sj_lang.manifest import write_text
from sj_lang.recipe.loading import Recipe
from sj_lang.run import card

MODULE = "modeling_sj_lang"
CODE = '''\
"""Lets transformers find the classes of this model, which are those of an installed package."""

try:
    {imports}
except ImportError as error:
    raise ImportError("this model needs sj_lang; install it with: pip install {distributions}") from error

__all__ = [{quoted}]
'''


def write(recipe: Recipe, model: Path) -> None:
    """Write the module into the folder of a stored model, and name it in its config.json."""
    classes = _auto_classes(plugins.get("model", recipe.model["type"]).load())
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {auto: f"{MODULE}.{one.__name__}" for auto, one in classes.items()}
    write_text(model / "config.json", json.dumps(config, indent=2) + "\n")
    modules = {one.__name__: module_of(one, card.package(recipe)) for one in classes.values()}
    code = CODE.format(
        imports="\n    ".join(f"from {modules[name]} import {name}" for name in sorted(modules)),
        distributions=" ".join(card.distributions(recipe.model)),
        quoted=", ".join(f'"{name}"' for name in sorted(modules)),
    )
    write_text(model / f"{MODULE}.py", code)


def module_of(one: type, package: str) -> str:
    """The package that registers the model; the class's own module if it does not export it."""
    exported = getattr(importlib.import_module(package), one.__name__, None)
    return package if exported is one else one.__module__


def _auto_classes(config: Any) -> dict[str, Any]:
    """Auto class -> the class that it builds from a config class, of all that know it."""
    from transformers.models.auto import modeling_auto

    classes = {"AutoConfig": config}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and config in mapping:
            classes[name] = mapping[config]
    return classes
