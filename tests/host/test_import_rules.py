"""Who may import whom, read from the source. Each rule is a function that lists its breaches."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from source_tree import ROOT, Tree, below, imports

HEAVY = ["torch", "transformers", "spikingjelly", "numpy", "datasets", "tokenizers", "cupy", "accelerate", "matplotlib"]
HEAVY += [
    "numba",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sklearn",
    "torchvision",
    "triton",
    "onnx",
    "onnxruntime",
    "fla",
]
HEAVY += [f"safetensors.{library}" for library in ("torch", "numpy", "flax", "tensorflow")]
LIGHT = ["hookspecs", "plugins", "recipe/__init__", "recipe/loading", "cli", "commands/arguments", "commands/listing"]
LIGHT += ["spikingjelly/plugin", "testing/pytest_plugin", "component/problems", "errors", "__main__", "__init__"]
#: folders of the host from which plugins may import, beside all flat files
OPEN = ("component", "cpu", "cuda", "energy", "hf", "neuron", "testing", "bench")
#: plugin -> its folders -> those that each may not import, not through others either
UNKNOWN = {
    "sj_lang_language": {
        "embeddings": ["models", "attention", "tasks", "data"],
        "attention": ["models", "embeddings", "tasks", "data"],
        "norms": ["models", "embeddings", "attention", "tasks", "data"],
        "tasks": ["models", "embeddings", "attention", "norms"],
        "data": ["models", "embeddings", "attention", "norms"],
        "tokenizers": ["models", "embeddings", "attention", "norms", "tasks"],
        "models": ["tasks", "data", "tokenizers"],
    },
    "sj_lang_neurons": {
        "scan": ["dsn", "bpsn", "sub_steps"],
        "dsn": ["bpsn", "sub_steps"],
        "bpsn": ["dsn", "sub_steps"],
        "sub_steps": ["dsn", "bpsn", "scan"],
    },
    "sj_lang_tasks": {
        "data": ["models", "tasks", "control"],
        "models": ["data", "tasks", "control"],
        "tasks": ["models"],
        "control": ["models", "tasks", "data"],
    },
}
PYTHON_PATH = re.compile(
    r"(?!run:)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[a-z_]\w*(\.[a-z_]\w*)*\.[A-Z][\w.]*"
)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    package = tmp_path / "pack" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").touch()
    (package / "__init__.py").touch()
    path = package / "a.py"
    path.write_text(
        "import torch.nn as nn\nfrom ..other import x\nfrom . import b\n"
        "if TYPE_CHECKING:\n    import cupy\ndef f():\n    import numpy\nclass C:\n    import yaml\n"
    )
    assert imports(path) == {
        *("torch.nn", "pack.other", "pack.other.x", "pack.inner", "pack.inner.b", "cupy", "numpy", "yaml")
    }
    assert not imports(path, functions=False, typing=False) & {"cupy", "numpy"}


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_only_the_body_for_type_checkers_is_left_out(test: str, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        f"if {test}:\n    import yaml\nelif FAST:\n    import numba\nelse:\n    import cupy\n"
        f"if not {test}:\n    import torch\nif {test} or FAST:\n    import numpy\n"
    )
    assert imports(path, typing=False) == {"numba", "cupy", "torch", "numpy"}
    assert imports(path) == {"numba", "cupy", "torch", "numpy", "yaml"}


def test_a_package_is_imported_if_something_of_its_own_is_taken(tmp_path: Path) -> None:
    tree, path = Tree(ROOT), tmp_path / "a.py"
    for line, files in {
        "from sj_lang.run import console, guards": ["console.py", "guards.py"],
        "from sj_lang.run import console, train": ["__init__.py", "console.py"],
        "from sj_lang.run import train": ["__init__.py"],
        "from sj_lang.run import *": ["__init__.py"],
    }.items():
        path.write_text(line)
        assert sorted(module.name for module in tree.modules(path)) == files


def host_and_plugins(tree: Tree) -> Iterator[str]:
    """1. The host knows no plugin. Plugins know the host's open modules, and not each other."""
    plugins = [name for name in tree.packages if name != "sj_lang"]
    open_modules = [f"sj_lang.{path.stem}" for path in tree.packages["sj_lang"].glob("*.py")]
    open_modules += [f"sj_lang.{name}" for name in OPEN]
    for owner in tree.packages:
        others = [name for name in plugins if name != owner]
        for path in tree.sources(owner):
            yield from (f"{tree.name(path)} imports {name}" for name in imports(path) if below(name, *others))
            names = {tree.name(module) for module in tree.modules(path)} if owner != "sj_lang" else set()
            closed = (name for name in names if below(name, "sj_lang") and not below(name, *open_modules))
            yield from (f"{tree.name(path)} imports {name}" for name in closed)


def references(tree: Tree) -> Iterator[str]:
    """2. A reference imports torch only, and nothing imports it or, but for packages, a node."""
    for path in tree.sources("sj_lang_neurons"):
        name = tree.name(path)
        if path.name == "reference.py":
            roots = {module.split(".")[0] for module in imports(path)}
            foreign = roots - {"torch", "__future__", "typing", "collections", "math"}
            yield from (f"{name} imports {module}" for module in foreign)
            continue
        reached = tree.reached([path])
        yield from (f"{name} reaches {tree.name(other)}" for other in reached if other.name == "reference.py")
        if path.name not in ("node.py", "__init__.py"):
            yield from (f"{name} reaches {tree.name(other)}" for other in reached if other.name == "node.py")


def strangers(tree: Tree) -> Iterator[str]:
    """3. In a plugin tasks know no model, parts no whole, and a neuron no other."""
    for package, folders in UNKNOWN.items():
        for folder, unknown in folders.items():
            others = [f"{package}.{name}" for name in unknown]
            for path in tree.sources(package, folder):
                names = {*imports(path), *(tree.name(other) for other in tree.reached([path]))}
                yield from (f"{tree.name(path)} reaches {name}" for name in names if below(name, *others))


def light_modules(tree: Tree) -> Iterator[str]:
    """4. Whatever lists and helps imports nothing heavy when it is imported."""
    host = tree.packages["sj_lang"]
    starts = [host / f"{name}.py" for name in LIGHT]
    starts += [folder / "plugin.py" for name, folder in tree.packages.items() if name != "sj_lang"]
    starts += host.glob("commands/template/**/plugin.py")
    for start in starts:
        seen: set[Path] = set()
        waiting = [start]
        while waiting:
            path = waiting.pop()
            seen.add(path)
            for name in imports(path, functions=False, typing=False):
                if below(name, *HEAVY):
                    yield f"{start.relative_to(tree.root)} imports {path.name}, which imports {name}"
                waiting += [place for place in _executed(tree, name) if place not in seen]


def _executed(tree: Tree, name: str) -> list[Path]:
    """The files of ours that importing `name` runs: the packages on the way, and the module."""
    parts = name.split(".")
    places = (tree.file(".".join(parts[:length])) for length in range(1, len(parts) + 1))
    return [place for place in places if place is not None]


def recipes(tree: Tree) -> Iterator[str]:
    """5. Recipes hold names and numbers, never Python paths."""
    folders = ("recipes", "plugins/*/*/recipes", "sj_lang/commands/template")
    paths = [path for folder in folders for path in tree.root.glob(f"{folder}/**/*.yaml")]
    assert paths
    for path in paths:
        texts = _texts(yaml.safe_load(path.read_text(encoding="utf-8")))
        yield from (f"{path.relative_to(tree.root)}: {text}" for text in texts if is_python_path(text, tree))


def is_python_path(text: str, tree: Tree) -> bool:
    """Whether it looks like a class or a function, or names something in a known package."""
    # `test.loss` is a figure
    packages = {*tree.packages, *HEAVY, *sys.stdlib_module_names} - {"test"}
    dotted = DOTTED.fullmatch(text) and text.split(".")[0] in packages
    return bool(dotted or PYTHON_PATH.fullmatch(text))


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)
    elif isinstance(data, str):
        yield data


Rule = Callable[[Tree], Iterator[str]]
NEURONS, LANGUAGE = "plugins/neurons/sj_lang_neurons", "plugins/language/sj_lang_language"
TASKS = "plugins/tasks/sj_lang_tasks"


@pytest.mark.parametrize("rule", [host_and_plugins, references, strangers, light_modules, recipes])
def test_nothing_breaches(rule: Rule) -> None:
    breaches = list(rule(Tree(ROOT)))
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize(
    ("rule", "place", "line"),
    [
        (host_and_plugins, "sj_lang/monitor.py", "def f():\n    import sj_lang_neurons.dsn"),
        (host_and_plugins, f"{LANGUAGE}/data/hub.py", "from sj_lang_neurons import DSN"),
        (host_and_plugins, f"{NEURONS}/jit.py", "from sj_lang.run import console"),
        (references, f"{NEURONS}/dsn/reference.py", "from sj_lang import cpu"),
        (references, f"{NEURONS}/dsn/torch.py", "from sj_lang_neurons.dsn import reference"),
        (references, f"{NEURONS}/jit.py", "from sj_lang_neurons.bpsn.reference import sequence"),
        (references, f"{NEURONS}/scan/torch.py", "def f():\n    from . import reference"),
        (references, f"{NEURONS}/dsn/numba.py", "from sj_lang_neurons.dsn.node import DSN"),
        (strangers, f"{LANGUAGE}/tasks/causal_lm.py", "from sj_lang_language.models import spike_decoder"),
        (strangers, f"{LANGUAGE}/data/hub.py", "from sj_lang_language import attention"),
        (strangers, f"{NEURONS}/scan/torch.py", "from sj_lang_neurons.dsn import decay"),
        (strangers, f"{NEURONS}/bpsn/numba.py", "from sj_lang_neurons.dsn import numba_kernel"),
        (strangers, f"{TASKS}/tasks/images.py", "from sj_lang_tasks.models import sequence_cnn"),
        (strangers, f"{TASKS}/data/idx.py", "def f():\n    from sj_lang_tasks.tasks.images import ImageClassification"),
        (light_modules, "sj_lang/errors.py", "import torch"),
        (light_modules, "sj_lang/errors.py", "from safetensors.torch import load_file"),
        (light_modules, "sj_lang/errors.py", "from safetensors import torch"),
        (light_modules, "sj_lang/errors.py", "if not TYPE_CHECKING:\n    import torch"),
        (light_modules, "sj_lang/errors.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        (light_modules, f"{NEURONS}/plugin.py", "from sj_lang.monitor import nodes"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: sj_lang_neurons.dsn:DSN}"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: torch.nn.Linear}"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: torch.nn.functional.relu}"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: torch.nn.Module.forward}"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: sj_lang_neurons.dsn}"),
        (recipes, "recipes/lm/quickstart.yaml", "model: {neuron: 'pack.inner:Outer.Inner'}"),
        (recipes, "plugins/tasks/sj_lang_tasks/recipes/five/image.yaml", "model: [{lambda: operator.mul}]"),
    ],
)
def test_a_planted_breach_is_caught(rule: Rule, place: str, line: str, copy: Tree) -> None:
    before = set(rule(copy))
    with copy.planted(place, line):
        assert set(rule(copy)) - before


def test_a_breach_through_another_module_is_caught(copy: Tree) -> None:
    top = copy.packages["sj_lang_language"]
    reached = copy.reached(copy.sources("sj_lang_language", "attention"))
    between = next(path for path in reached if path.parent == top and path.name != "__init__.py")
    with copy.planted(str(between.relative_to(copy.root)), "from sj_lang_language.models import snn_bert"):
        assert any("attention" in breach for breach in strangers(copy))


def test_names_and_numbers_are_no_python_paths() -> None:
    tree = Tree(ROOT)
    for text in ("hub:a/b", "spike_decoder", "ROMEO:", "data/x.txt", "model.twin", "test.loss", "run:torch.nn"):
        assert not is_python_path(text, tree)


@pytest.mark.parametrize("package", [name for name in Tree(ROOT).packages if name != "sj_lang"])
def test_every_folder_of_a_plugin_has_a_rule(package: str) -> None:
    folder = Tree(ROOT).packages[package]
    assert set(UNKNOWN[package]) == {path.parent.name for path in folder.glob("*/__init__.py")}


def test_only_the_loader_and_the_contract_know_pluggy() -> None:
    paths = Tree(ROOT).sources("sj_lang")
    assert {path.name for path in paths if any(below(name, "pluggy") for name in imports(path))} == {
        *("plugins.py", "hookspecs.py")
    }
