"""The rooms of the host, their order, and names that stand once: read from the source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from source_tree import ROOT, Tree, below, imports

Breaches = Callable[[Tree], Iterable[str]]
#: A module of a later package may reach an earlier one's, never the other way round. Flat files and
#: all other folders stand with "build".
ORDER = ("component", "build", "recipe", "run", "bench", "commands", "cli")
REPORT_MAY_IMPORT = ("sj_lang.report", "sj_lang.folder", "sj_lang.manifest", "sj_lang.errors")


def test_the_top_of_the_host_has_few_entries() -> None:
    entries = [path.name for path in (ROOT / "sj_lang").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 30, sorted(entries)


def circles(tree: Tree, package: str) -> list[str]:
    """Groups of modules of a package that import one another, imports inside functions included."""
    graph = {path: tree.needed(path) for path in tree.sources(package)}
    return [" <-> ".join(sorted(map(tree.name, group))) for group in _strong_components(graph) if len(group) > 1]


def _strong_components(graph: dict[Path, set[Path]]) -> list[list[Path]]:
    """Tarjan's algorithm."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    components: list[list[Path]] = []

    def visit(node: Path) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node] & graph.keys():
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(stack[start:])
            del stack[start:]

    for node in graph:
        if node not in index:
            visit(node)
    return components


@pytest.mark.parametrize("package", ["sj_lang", "sj_lang_neurons", "sj_lang_language", "sj_lang_tasks"])
def test_no_modules_import_one_another(package: str) -> None:
    assert not circles(Tree(ROOT), package)


def imports_by_string(tree: Tree) -> Iterator[str]:
    """Calls of `import_module` or `__import__` with a name of ours, whole or its beginning."""
    for path in tree.sources("sj_lang"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("import_module", "__import__")):
                continue
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            if any(isinstance(text, str) and text.startswith("sj_lang") for text in texts):
                yield f"{tree.name(path)}: {ast.unparse(node)}"


def test_the_host_imports_itself_by_no_string() -> None:
    assert not list(imports_by_string(Tree(ROOT)))


def out_of_order(tree: Tree) -> Iterator[str]:
    """Modules that reach a later package, also through others; type checkers' imports left out."""
    graph = {path: tree.needed(path) for path in tree.sources("sj_lang")}
    for path, imported in graph.items():
        name = tree.name(path)
        last = _place(name, ORDER.index("build"))
        late = (other for other in map(tree.name, _reached(graph, path)) if _place(other, 0) > last)
        yield from (f"{name} reaches {other}" for other in late if name != "sj_lang.__main__")
        for other in map(tree.name, imported):
            if other == "sj_lang.cli" and name != "sj_lang.__main__":
                yield f"{name} imports {other}"
            if below(name, "sj_lang.report") and not below(other, *REPORT_MAY_IMPORT):
                yield f"{name} imports {other}"


def _reached(graph: dict[Path, set[Path]], start: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def _place(name: str, default: int) -> int:
    """The place of a module in `ORDER`, or the default if its package has none."""
    parts = name.split(".")
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[1] in ORDER else default


def test_the_packages_of_the_host_import_in_their_order() -> None:
    assert not list(out_of_order(Tree(ROOT)))


def test_transformers_is_prepared_in_one_file_and_before_it_is_imported() -> None:
    """`sj_lang.hf` alone hides packages, and modules of the host that import transformers at the
    top call it first.

    For modules of plugins, their registration does.
    """
    tree = Tree(ROOT)
    for path in tree.sources("sj_lang"):
        text = path.read_text(encoding="utf-8")
        name = tree.name(path)
        assert "sys.modules[" not in text or name == "sj_lang.hf", name
        if any(below(module, "transformers") for module in imports(path, functions=False, typing=False)):
            shielded = "sj_lang.hf" in imports(path) or name == "sj_lang.hf"
            assert shielded, f"{name} imports transformers without sj_lang.hf"


def classes_of_one_name(tree: Tree) -> Iterator[str]:
    """Names that several classes at the top of modules have, in any of the packages."""
    places = defaultdict(list)
    for package in tree.packages:
        for path in tree.sources(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(tree.name(path))
    return (f"{name}: {', '.join(modules)}" for name, modules in sorted(places.items()) if len(modules) > 1)


def test_a_class_name_stands_once() -> None:
    assert not list(classes_of_one_name(Tree(ROOT)))


#: what a local could be called whatever it holds
EMPTY_NAMES = {"found", "own", "given", "known", "wanted", "told"}


def empty_names(tree: Tree) -> Iterator[str]:
    """Locals, arguments of functions and loop variables whose name does not say what they hold."""
    for package in tree.packages:
        for path in tree.sources(package):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                    continue
                for node in ast.walk(function):
                    stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
                    name = node.arg if isinstance(node, ast.arg) else stored
                    if name in EMPTY_NAMES:
                        yield f"{tree.name(path)}:{node.lineno}: {name}"


def test_locals_say_what_they_hold() -> None:
    assert not list(empty_names(Tree(ROOT)))


@pytest.mark.parametrize(
    ("breaches", "place", "line"),
    [
        (partial(circles, package="sj_lang"), "errors", "def f():\n    from sj_lang import folder"),
        (imports_by_string, "monitor", "importlib.import_module(f'sj_lang.{name}')"),
        (out_of_order, "component/values", "from sj_lang.run import series"),
        (out_of_order, "monitor", "from sj_lang import cli"),
        (out_of_order, "folder", "def f():\n    from sj_lang.run import record"),
        (out_of_order, "hf/loading", "from sj_lang.bench import timing"),
        (out_of_order, "energy/products", "from sj_lang.recipe import averages"),
        (out_of_order, "swap/find", "from sj_lang.commands import swap"),
        (out_of_order, "report/page", "from sj_lang.monitor import nodes"),
        (classes_of_one_name, "monitor", "class RunFolder:\n    pass"),
        (empty_names, "monitor", "def f(x):\n    return [own for own in x]"),
    ],
)
def test_a_planted_breach_is_caught(breaches: Breaches, place: str, line: str, tmp_path: Path) -> None:
    copy = Tree(ROOT).copy(tmp_path)
    with copy.planted(f"sj_lang/{place}.py", line):
        name = f"sj_lang.{place.replace('/', '.')}"
        assert any(name in breach for breach in breaches(copy))


def test_a_run_that_is_reached_through_another_module_is_caught(tmp_path: Path) -> None:
    copy = Tree(ROOT).copy(tmp_path)
    with copy.planted("sj_lang/folder.py", "def f():\n    from sj_lang.run import console"):
        assert "sj_lang.hf.checkpoint reaches sj_lang.run.console" in set(out_of_order(copy))
