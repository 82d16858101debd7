"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOST = ROOT / "sj_lang"
NEURONS = ROOT / "plugins" / "neurons" / "sj_lang_neurons"
LANGUAGE = ROOT / "plugins" / "language" / "sj_lang_language"
HEAVY = {"torch", "transformers", "spikingjelly", "numpy", "datasets", "tokenizers", "cupy", "accelerate", "matplotlib"}
LIGHT = ["hookspecs", "plugins", "recipe/__init__", "recipe/loading", "cli", "commands/arguments", "commands/listing"]
LIGHT += ["spikingjelly/plugin", "testing/pytest_plugin", "component/problems", "errors", "__main__", "__init__"]
PLUGINS = [*sorted(ROOT.glob("plugins/*/*/plugin.py")), *sorted(HOST.glob("commands/template/**/plugin.py"))]


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """The full names of what a file imports; relative ones and `from package import module` are resolved."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), path, at_import_time)


def _imports(node: ast.AST, path: Path, at_import_time: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if at_import_time and (inside or typing_only):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _package(path, child.level) if child.level else ""
            name = ".".join(part for part in (base, child.module or "") if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in child.names)
        yield from _imports(child, path, at_import_time)


def _package(path: Path, level: int) -> str:
    """The package that a relative import of this level starts from."""
    folder = path.parents[level - 1]
    names = []
    while (folder / "__init__.py").exists():
        names.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(names))


def sources(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*.py")) if "template" not in path.parts]
    assert found, folder
    return found


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


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
    assert set(imports(path)) == {
        *("torch.nn", "pack.other", "pack.other.x", "pack.inner", "pack.inner.b", "cupy", "numpy", "yaml")
    }
    assert not set(imports(path, at_import_time=True)) & {"cupy", "numpy"}


def test_1_the_host_knows_no_plugin_and_plugins_do_not_know_each_other() -> None:
    folders = {path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/*/*/plugin.py"))}
    assert {"sj_lang_neurons", "sj_lang_language"} <= set(folders)
    for owner, folder in {"sj_lang": HOST, **folders}.items():
        others = [name for name in folders if name != owner]
        for path in sources(folder):
            assert not [name for name in imports(path) if below(name, *others)], path


def test_2_a_reference_imports_torch_only() -> None:
    references = sorted(NEURONS.rglob("reference.py"))
    assert references
    for path in references:
        found = {name.split(".")[0] for name in imports(path)} - {"__future__", "typing", "collections", "math"}
        assert found <= {"torch"}, path


def test_2_nothing_imports_the_reference_and_no_kernel_the_node() -> None:
    """Of all files, so not through others either."""
    files = [path for path in sources(NEURONS) if path.name != "reference.py"]
    assert len(files) > 20
    for path in files:
        above = {"reference"} if path.name == "node.py" else {"reference", "node"}
        typing_only = path == NEURONS / "__init__.py"  # it names the nodes for type checkers
        names = imports(path, at_import_time=typing_only)
        assert not [name for name in names if set(name.split(".")) & above], path


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("embeddings", ["models", "attention", "tasks", "data"]),
        ("attention", ["models", "embeddings", "tasks", "data"]),
        ("norms", ["models", "embeddings", "attention", "tasks", "data"]),
        ("tasks", ["models", "embeddings", "attention", "norms"]),
        ("data", ["models", "embeddings", "attention", "norms"]),
        ("tokenizers", ["models", "embeddings", "attention", "norms", "tasks"]),
        ("models", ["tasks", "data", "tokenizers"]),
    ],
)
def test_3_in_language_tasks_know_no_model_and_parts_know_no_whole(folder: str, forbidden: list[str]) -> None:
    packages = [f"sj_lang_language.{name}" for name in forbidden]
    for path in sources(LANGUAGE / folder):
        assert not [name for name in imports(path) if below(name, *packages)], path


@pytest.mark.parametrize("start", [*(HOST / f"{name}.py" for name in LIGHT), *PLUGINS], ids=str)
def test_4_what_lists_and_helps_imports_nothing_heavy(start: Path) -> None:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in imports(path, at_import_time=True):
            assert name.split(".")[0] not in HEAVY, f"{start.name} imports {path.name}, which imports {name}"
            for place in _files(name):
                if place not in seen:
                    waiting.append(place)


def _files(name: str) -> list[Path]:
    """The files of ours that importing `name` runs: the packages on the way, and the module."""
    roots = {"sj_lang": ROOT, "sj_lang_neurons": NEURONS.parent, "sj_lang_language": LANGUAGE.parent}
    parts = name.split(".")
    if parts[0] not in roots:
        return []
    places = [roots[parts[0]].joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    files = [place / "__init__.py" for place in places] + [place.with_suffix(".py") for place in places]
    return [file for file in files if file.exists()]


def test_only_the_loader_and_the_contract_know_pluggy() -> None:
    knowing = {path.name for path in sources(HOST) if any(below(name, "pluggy") for name in imports(path))}
    assert knowing == {"plugins.py", "hookspecs.py"}


def values(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from values(key)
            yield from values(value)
    elif isinstance(data, list):
        for item in data:
            yield from values(item)
    elif isinstance(data, str):
        yield data


PYTHON_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*|[a-z_]\w*(\.[a-z_]\w*)*\.[A-Z]\w*")


def test_5_recipes_hold_names_and_numbers_never_python_paths() -> None:
    recipes = sorted(ROOT.glob("recipes/**/*.yaml")) + sorted(HOST.glob("commands/template/**/*.yaml"))
    assert recipes
    for path in recipes:
        found = [value for value in values(yaml.safe_load(path.read_text())) if PYTHON_PATH.fullmatch(value)]
        assert not found, path
    assert PYTHON_PATH.fullmatch("package.module:Class")
    assert PYTHON_PATH.fullmatch("torch.nn.Linear")
    assert not any(
        PYTHON_PATH.fullmatch(value) for value in ("hub:a/b", "spike_decoder", "ROMEO:", "data/x.txt", "model.twin")
    )
