"""The rooms of the host, their order, and the length of files: read from the source."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from source_tree import ROOT, Breaches, Tree, below, caught, imports

LONGEST = 400  # lines of a file
CODE = {".py", ".pyi", ".cu", ".cuh", ".h", ".cpp", ".j2", ".css", ".js", ".yaml"}
#: A module of a later package may reach an earlier one's, never the other way round. Flat files and
#: all other folders stand with "build".
ORDER = ("component", "build", "recipe", "run", "bench", "commands", "cli")
REPORT_MAY_IMPORT = ("sj_lang.report", "sj_lang.folder", "sj_lang.manifest", "sj_lang.errors")


def test_the_top_of_the_host_has_few_entries() -> None:
    entries = [path.name for path in (ROOT / "sj_lang").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 30, sorted(entries)


def long_files(root: Path) -> list[str]:
    """Files of code that have more lines than a reader keeps in mind, wherever they are."""
    lengths = {path: len(path.read_bytes().splitlines()) for path in code_files(root)}
    return [f"{path.relative_to(root)}: {length}" for path, length in lengths.items() if length > LONGEST]


def code_files(root: Path) -> list[Path]:
    places = [root / name for name in ("sj_lang", "plugins", "recipes", "tests", "docs")]
    paths = [path for place in places for path in place.rglob("*") if path.suffix in CODE]
    return [path for path in paths if "_build" not in path.parts]


def test_no_file_is_long() -> None:
    assert len(code_files(ROOT)) > 300
    assert not long_files(ROOT)


@pytest.mark.parametrize(
    "place",
    [
        "sj_lang/run/long.py",
        "tests/host/long.py",
        "docs/long.py",
        "plugins/long.cu",
        *map("sj_lang/long{}".format, sorted(CODE)),
    ],
)
def test_a_long_file_is_found(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    breach = [f"{place}: {LONGEST + 1}"]
    for text, breaches in (("#\n" * LONGEST, []), ("#\n" * (LONGEST + 1), breach), ("#\n" * LONGEST + "#", breach)):
        path.write_text(text, encoding="utf-8")
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
        new = graph.get(waiting.pop(), set()) - seen  # plugins are another rule's
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

    For modules of plugins, their registration does, and so it does for what `sj-lang new` writes.
    """
    tree = Tree(ROOT)
    for path in tree.sources("sj_lang"):
        if "template_parts" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        name = tree.name(path)
        assert "sys.modules[" not in text or name == "sj_lang.hf", name
        if any(below(module, "transformers") for module in imports(path, functions=False, typing=False)):
            shielded = "sj_lang.hf" in imports(path) or name == "sj_lang.hf"
            assert shielded, f"{name} imports transformers without sj_lang.hf"


@pytest.mark.parametrize(
    ("breaches", "place", "line"),
    [
        (partial(circles, package="sj_lang"), "errors", "def f():\n    from sj_lang import folder"),
        (partial(circles, package="sj_lang"), "run/console", "from sj_lang.run import guards, train"),
        (out_of_order, "component/values", "from sj_lang.run import series"),
        (out_of_order, "monitor", "from sj_lang import cli"),
        (out_of_order, "folder", "def f():\n    from sj_lang.run import record"),
        (out_of_order, "hf/loading", "from sj_lang.bench import timing"),
        (out_of_order, "energy/products", "from sj_lang.recipe import averages"),
        (out_of_order, "swap/find", "from sj_lang.commands import swap"),
        (out_of_order, "report/page", "from sj_lang.monitor import nodes"),
    ],
)
def test_a_planted_breach_is_caught(breaches: Breaches, place: str, line: str, copy: Tree) -> None:
    assert caught(breaches, place, line, copy)


def test_a_run_that_is_reached_through_another_module_is_caught(copy: Tree) -> None:
    with copy.planted("sj_lang/folder.py", "def f():\n    from sj_lang.run import console"):
        assert "sj_lang.hf.checkpoint reaches sj_lang.run.console" in set(out_of_order(copy))
