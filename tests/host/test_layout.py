"""The rooms of the host, their order, and names that stand once: read from the source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from source_tree import ROOT, Tree, below, imports

LONGEST = 400  # lines of a file
Breaches = Callable[[Tree], Iterable[str]]
#: A module of a later package may reach an earlier one's, never the other way round. Flat files and
#: all other folders stand with "build".
ORDER = ("component", "build", "recipe", "run", "bench", "commands", "cli")
REPORT_MAY_IMPORT = ("sj_lang.report", "sj_lang.folder", "sj_lang.manifest", "sj_lang.errors")


def test_the_top_of_the_host_has_few_entries() -> None:
    entries = [path.name for path in (ROOT / "sj_lang").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 30, sorted(entries)


def long_files(root: Path) -> list[str]:
    """Files of code that have more lines than a reader keeps in mind, wherever they are."""
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in code_files(root)}
    return [f"{path.relative_to(root)}: {length}" for path, length in lengths.items() if length > LONGEST]


def code_files(root: Path) -> list[Path]:
    places = [root / name for name in ("sj_lang", "plugins", "recipes", "tests", "docs")]
    paths = [
        path for place in places for path in place.rglob("*") if path.suffix in (".py", ".cu", ".cuh", ".h", ".j2")
    ]
    return [path for path in paths if "_build" not in path.parts]


def test_no_file_is_long() -> None:
    assert len(code_files(ROOT)) > 300
    assert not long_files(ROOT)


@pytest.mark.parametrize("place", ["sj_lang/run/long.py", "tests/host/long.py", "docs/long.py", "plugins/long.cu"])
def test_a_long_file_is_found(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    for length, breaches in ((LONGEST, []), (LONGEST + 1, [f"{place}: {LONGEST + 1}"])):
        path.write_text("\n" * length, encoding="utf-8")
        assert long_files(tmp_path) == breaches


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


#: module of the host -> what it imports by a name that it does not know when it is written, all
#: foreign: targets of plugins, libraries that may be absent or broken, a network of the user's
IMPORTED_BY_NAME = {
    "sj_lang.hookspecs": ["module_name"],
    "sj_lang.errors": ["module"],
    "sj_lang.compat": ["f'spikingjelly.activation_based.{module}'", "'spikingjelly.activation_based.layer'"],
    "sj_lang.hf": ["'torch'", "package"],
    "sj_lang.cpu": ["'numba'"],
    "sj_lang.cuda": ["'cupy'"],
    "sj_lang.commands.doctor": ["PROBES.get(name, name)", "module"],
    "sj_lang.commands.swap": ["module"],
    "sj_lang.bench.baselines": ["'fla.ops.hgrn'", "'fla.modules.causal_conv1d'"],
}
#: what imports by a string; `not_imported` is ours
IMPORTERS = {"import_module", "__import__", "not_imported", "resolve_name", "run_module", "run_path", "exec", "eval"}
PLAIN = {"importlib", "importlib.util"}
MACHINERY = {"importlib", "importlib.machinery", "pkgutil", "runpy", "imp", "builtins", "zipimport"}


def imports_by_string(tree: Tree) -> Iterator[str]:
    """Imports of the host by a string other than those listed, and in those modules strings that
    name one of its own."""
    for path in tree.sources("sj_lang"):
        name, source = tree.name(path), ast.parse(path.read_text(encoding="utf-8"))
        listed = IMPORTED_BY_NAME.get(name, [])
        yield from (f"{name}: {text}" for text in _importers(source, listed))
        texts = {node.value for node in ast.walk(source) if listed and isinstance(node, ast.Constant)}
        ours = (text for text in texts if isinstance(text, str) and "." in text and tree.file(text))
        yield from (f"{name}: {text!r}" for text in ours)


def _importers(source: ast.Module, listed: list[str]) -> Iterator[str]:
    """Uses of `IMPORTERS`, but for calls of `importlib.import_module` with what is listed."""
    allowed: set[ast.AST] = set()
    for node in ast.walk(source):
        relative = isinstance(node, ast.Call) and "__package__" in ast.unparse(node)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) in listed and not relative:
            allowed.add(node.func)
        if isinstance(node, ast.Attribute) and node.attr in {"import_module", "util"}:
            allowed.add(node.value)
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.asname} | ({a.name for a in node.names} - PLAIN)
            yield from (f"import {name}" for name in names & (MACHINERY | PLAIN))
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} - {"metadata", "resources"}
            renamed = {alias.name for alias in node.names if alias.asname} & IMPORTERS
            if (node.module in MACHINERY and names) or renamed:
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in {*IMPORTERS, "importlib"} and node not in allowed:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in IMPORTERS - {"eval", "exec"} and node not in allowed:
            yield ast.unparse(node)


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


def types_of_one_name(tree: Tree) -> Iterator[str]:
    """Names of several classes, nested ones too, or aliases of types, in any of the packages."""
    places = defaultdict(list)
    for package in tree.packages:
        for path in tree.sources(package):
            for name in _types(ast.parse(path.read_text(encoding="utf-8"))):
                places[name].append(tree.name(path))
    return (f"{name}: {', '.join(modules)}" for name, modules in sorted(places.items()) if len(modules) > 1)


def _types(module: ast.Module) -> Iterator[str]:
    """The classes of a module, and once each other name in CamelCase that it binds at its top."""
    yield from (node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef))
    yield from {name for name in _bound(module.body) if re.fullmatch(r"_*[A-Z]\w*[a-z]\w*", name)}


def _bound(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that statements assign to, also under `if` (`if TYPE_CHECKING`) and `try`."""
    for statement in statements:
        if isinstance(statement, ast.If | ast.Try):
            yield from _bound(child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt))
        elif isinstance(statement, ast.Assign | ast.AnnAssign) or type(statement).__name__ == "TypeAlias":
            yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def test_a_class_or_an_alias_has_a_name_of_its_own() -> None:
    assert not list(types_of_one_name(Tree(ROOT)))


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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(ROOT).copy(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize(
    ("breaches", "place", "line"),
    [
        (partial(circles, package="sj_lang"), "errors", "def f():\n    from sj_lang import folder"),
        (partial(circles, package="sj_lang"), "run/console", "from sj_lang.run import guards, train"),
        (imports_by_string, "monitor", "importlib.import_module(f'sj_lang.{name}')"),
        (imports_by_string, "monitor", "import importlib\nimportlib.import_module('.run', __package__)"),
        (imports_by_string, "monitor", "from importlib import import_module as load\nload(NAME)"),
        (imports_by_string, "monitor", "import importlib as loader\nloader.import_module(NAME)"),
        (imports_by_string, "monitor", "import importlib\ngetattr(importlib, 'import_' + 'module')(NAME)"),
        (imports_by_string, "monitor", "import pkgutil\npkgutil.resolve_name(NAME)"),
        (imports_by_string, "monitor", "from pkgutil import resolve_name"),
        (imports_by_string, "monitor", "import runpy\nrunpy.run_module(NAME)"),
        (imports_by_string, "monitor", "__import__(NAME)"),
        (imports_by_string, "monitor", "load = __import__"),
        (imports_by_string, "monitor", "import builtins\nbuiltins.__import__(NAME)"),
        (imports_by_string, "monitor", "exec('import ' + NAME)"),
        (imports_by_string, "monitor", "from sj_lang.errors import not_imported as load\nload(NAME, '', '')"),
        (imports_by_string, "monitor", "not_imported(NAME, '', '')"),
        (imports_by_string, "compat", "MODULE = 'sj_lang.run.series'\nimportlib.import_module(MODULE)"),
        (imports_by_string, "compat", "importlib.import_module('.run', __package__)"),
        (imports_by_string, "errors", "module = '.run'\nimportlib.import_module(module, __package__)"),
        (imports_by_string, "compat", "load = importlib.import_module"),
        (imports_by_string, "errors", "module = 'sj_lang.run.series'\nimportlib.import_module(module)"),
        (out_of_order, "component/values", "from sj_lang.run import series"),
        (out_of_order, "monitor", "from sj_lang import cli"),
        (out_of_order, "folder", "def f():\n    from sj_lang.run import record"),
        (out_of_order, "hf/loading", "from sj_lang.bench import timing"),
        (out_of_order, "energy/products", "from sj_lang.recipe import averages"),
        (out_of_order, "swap/find", "from sj_lang.commands import swap"),
        (out_of_order, "report/page", "from sj_lang.monitor import nodes"),
        (types_of_one_name, "monitor", "class RunFolder:\n    pass"),
        (types_of_one_name, "monitor", "class Outer:\n    class RunFolder:\n        pass"),
        (types_of_one_name, "monitor", "def f():\n    class RunFolder:\n        pass"),
        (types_of_one_name, "monitor", "RunFolder = dict[str, int]"),
        (types_of_one_name, "monitor", "RunFolder: TypeAlias = 'int | None'"),
        (types_of_one_name, "monitor", "if TYPE_CHECKING:\n    RunFolder = int | None"),
        (types_of_one_name, "monitor", "RunFolder = TypeVar('RunFolder')"),
        (empty_names, "monitor", "def f(x):\n    return [own for own in x]"),
    ],
)
def test_a_planted_breach_is_caught(breaches: Breaches, place: str, line: str, copy: Tree) -> None:
    with copy.planted(f"sj_lang/{place}.py", line):
        name = f"sj_lang.{place.replace('/', '.')}"
        assert any(name in breach for breach in breaches(copy))


def test_a_run_that_is_reached_through_another_module_is_caught(copy: Tree) -> None:
    with copy.planted("sj_lang/folder.py", "def f():\n    from sj_lang.run import console"):
        assert "sj_lang.hf.checkpoint reaches sj_lang.run.console" in set(out_of_order(copy))
