"""Names of types stand once, and names of values say what they hold: read from the source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import pytest
from source_tree import ROOT, Breaches, Tree, caught, parsed

#: what a value could be called whatever it is, also with underscores or in capitals
EMPTY_NAMES = {"found", "own", "given", "known", "wanted", "told"}


def types_of_one_name(tree: Tree) -> Iterator[str]:
    """Names of several classes, or of other things in CamelCase, in any of the packages."""
    places = defaultdict(list)
    for package in tree.packages:
        for path in tree.sources(package):
            for name in _types(parsed(path)):
                places[name].append(tree.name(path))
    return (f"{name}: {', '.join(modules)}" for name, modules in sorted(places.items()) if len(modules) > 1)


@cache
def _types(module: ast.Module) -> list[str]:
    classes = [node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    others = {name for name, _ in bound(module) if re.fullmatch(r"_*[A-Z]\w*[a-z]\w*", name)}
    return [*classes, *others]


_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar


def bound(module: ast.Module) -> Iterator[tuple[str, int]]:
    """The names that a module binds, without classes and plain imports, and their lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.alias) and node.asname and node.asname != node.name:
            yield node.asname, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, _NAMED) and node.name:
            yield node.name, node.lineno
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest, node.lineno


def stored_attributes(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def empty_names(tree: Tree) -> Iterator[str]:
    """Values whose name does not say what they hold, also in what plugin authors get as a start."""
    for package in tree.packages:
        for path in tree.sources(package, templates=True):
            for name, line in (*bound(parsed(path)), *stored_attributes(parsed(path))):
                if name.strip("_").lower() in EMPTY_NAMES:
                    yield f"{tree.name(path)}:{line}: {name}"


@pytest.mark.parametrize("breaches", [types_of_one_name, empty_names])
def test_names_are_clear(breaches: Breaches) -> None:
    assert not list(breaches(Tree(ROOT)))


@pytest.mark.parametrize(
    ("breaches", "place", "line"),
    [
        (types_of_one_name, "monitor", "class RunFolder:\n    pass"),
        (types_of_one_name, "monitor", "class Outer:\n    class RunFolder:\n        pass"),
        (types_of_one_name, "monitor", "def f():\n    class RunFolder:\n        pass"),
        (types_of_one_name, "monitor", "RunFolder = dict[str, int]"),
        (types_of_one_name, "monitor", "RunFolder: TypeAlias = 'int | None'"),
        (types_of_one_name, "monitor", "if TYPE_CHECKING:\n    RunFolder = int | None"),
        (types_of_one_name, "monitor", "RunFolder = TypeVar('RunFolder')"),
        (types_of_one_name, "monitor", "try:\n    pass\nexcept ValueError:\n    RunFolder = int"),
        (types_of_one_name, "monitor", "class Outer:\n    RunFolder = int"),
        (types_of_one_name, "monitor", "def f():\n    RunFolder = int"),
        (types_of_one_name, "monitor", "with a:\n    RunFolder = int"),
        (types_of_one_name, "monitor", "with a as RunFolder:\n    pass"),
        (types_of_one_name, "monitor", "def RunFolder():\n    pass"),
        (types_of_one_name, "monitor", "from pathlib import Path as RunFolder"),
        (types_of_one_name, "monitor", "import pathlib as RunFolder"),
        (empty_names, "monitor", "def f(x):\n    return [own for own in x]"),
        (empty_names, "monitor", "def f(found):\n    pass"),
        (empty_names, "monitor", "f = lambda known: known"),
        (empty_names, "monitor", "_TOLD = 1"),
        (empty_names, "monitor", "class Outer:\n    given: bool = False"),
        (empty_names, "monitor", "class Outer:\n    given = frozenset()"),
        (empty_names, "monitor", "def f(x):\n    x.wanted = 1"),
        (empty_names, "monitor", "match x:\n    case found:\n        pass"),
        (empty_names, "monitor", "match x:\n    case [1, *found]:\n        pass"),
        (empty_names, "monitor", "match x:\n    case {1: int() as own, **known}:\n        pass"),
        (empty_names, "monitor", "match x:\n    case {1: 2, **known}:\n        pass"),
        (empty_names, "monitor", "match x:\n    case Sized(size=told):\n        pass"),
        (types_of_one_name, "monitor", "match x:\n    case int() as RunFolder:\n        pass"),
        (empty_names, "commands/template_parts/task", "def f():\n    given = 1"),
    ],
)
def test_a_planted_breach_is_caught(breaches: Breaches, place: str, line: str, copy: Tree) -> None:
    assert caught(breaches, place, line, copy)
