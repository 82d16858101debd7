"""Nothing of ours is imported by a string: by a name that a reader of imports does not see."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest
from source_tree import ROOT, Tree, parsed

#: module -> what it imports by a name that it does not know when it is written. All are foreign:
#: targets of plugins, libraries that may be absent or broken, a network of the user's. The last
#: entry is ours: a plugin's neurons, which are imported when they are first asked for.
IMPORTED_BY_NAME = {
    "sj_lang.hookspecs": ["module_name"],
    "sj_lang.errors": ["module"],
    "sj_lang.compat": ["f'spikingjelly.activation_based.{module}'", "'spikingjelly.activation_based.layer'"],
    "sj_lang.hf": ["'torch'", "package"],
    "sj_lang.cpu": ["'numba'"],
    "sj_lang.cuda.nvidia": ["'cupy'"],
    "sj_lang.commands.completion": ["'shtab'"],
    "sj_lang.commands.doctor": ["PROBES.get(name, name)", "module"],
    "sj_lang.commands.swap": ["module"],
    "sj_lang.run.auto_map": ["package"],
    "sj_lang.bench.baselines": ["'fla.ops.hgrn'", "'fla.modules.causal_conv1d'"],
    "sj_lang_neurons": ["f'{__name__}.{_FOLDERS[name]}.node'"],
}
#: what imports by a string; `not_imported` is ours
IMPORTERS = {"import_module", "__import__", "not_imported", "resolve_name", "run_module", "run_path", "exec", "eval"}
IMPORTERS |= {"module_from_spec", "exec_module", "load_module", "safeimport", "__builtins__", "__loader__"}
#: names of importers that say so as text as well, in `getattr` or between brackets
SPELT = IMPORTERS - {"eval", "exec"}
#: the modules that look into `sys.modules`, where others may not: a module there needs no import
WITH_SYS_MODULES = {"sj_lang.hf", "sj_lang.compat", "sj_lang.component.remember", "sj_lang.testing.settings"}
#: the module that watches `builtins`, through which another could import
WITH_BUILTINS = {"sj_lang.testing.settings"}
PLAIN = {"importlib", "importlib.util"}
MACHINERY = {"importlib", "importlib.abc", "importlib.machinery", "pkgutil", "runpy", "imp", "builtins", "zipimport"}
MACHINERY |= {"pydoc", "code"}
#: what loads the target of an entry point -> the modules that use it; only the first may load
ENTRY_POINTS = {
    "EntryPoint": ["sj_lang.plugins"],
    "EntryPoints": [],
    "entry_points": ["sj_lang.plugins", "sj_lang.manifest"],
}
HERE = {"__name__", "__package__", "__spec__"}


def imports_by_string(tree: Tree) -> Iterator[str]:
    """Imports by a string other than those listed, and in those modules names of our own."""
    for package in tree.packages:
        for path in tree.sources(package):
            yield from _in_module(parsed(path), tree.name(path), tree)


@cache
def _in_module(source: ast.Module, name: str, tree: Tree) -> list[str]:
    listed = IMPORTED_BY_NAME.get(name, [])
    texts = [*_importers(source, listed), *_entry_points(source, name)]
    texts = [text for text in texts if name not in WITH_BUILTINS or text != "import builtins"]
    texts += [] if name in WITH_SYS_MODULES else _sys_modules(source)
    texts += _ours(source, listed, tree) if listed else []
    return [f"{name}: {text}" for text in texts]


def _importers(source: ast.Module, listed: list[str]) -> Iterator[str]:
    """Uses of `IMPORTERS`, but for calls of `importlib.import_module` with what is listed."""
    allowed: set[ast.AST] = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) in listed:
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
        elif isinstance(node, ast.Attribute) and node.attr in SPELT and node not in allowed:
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in SPELT:
            yield repr(node.value)


def _sys_modules(source: ast.Module) -> Iterator[str]:
    """`sys.modules`, also if `sys` or it has another name, or is asked for by text."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (f"import sys as {alias.asname}" for alias in node.names if alias.name == "sys" and alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield from ("sys.modules" for alias in node.names if alias.name in {"modules", "*"})
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules":
            yield "sys.modules"
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith(("getattr(sys", "vars(sys", "setattr(sys")):
            yield ast.unparse(node)


def _entry_points(source: ast.Module, name: str) -> Iterator[str]:
    """Uses of `ENTRY_POINTS` elsewhere, and `load` in a module that only lists them."""
    nodes = list(ast.walk(source))
    used = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for word in (used | attributes) & ENTRY_POINTS.keys():
        first = ENTRY_POINTS["entry_points"][0]
        if name not in ENTRY_POINTS[word] or (name != first and "load" in attributes):
            yield f"{word} of importlib.metadata"


def _ours(source: ast.Module, listed: list[str], tree: Tree) -> Iterator[str]:
    """Strings that name a module of ours, and what puts such a name together."""
    expressions = [node for node in ast.walk(source) if isinstance(node, ast.expr) and ast.unparse(node) in listed]
    allowed = {node for expression in expressions for node in ast.walk(expression)}
    for node in ast.walk(source):
        if isinstance(node, ast.Name) and node.id in HERE and node not in allowed:
            yield node.id
        elif isinstance(node, ast.Constant) and "." in str(node.value) and tree.file(str(node.value)):
            yield repr(node.value)
        elif isinstance(node, ast.BinOp | ast.JoinedStr) or _puts_together(node):
            texts = [str(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
            if any(text.split(".")[0] in tree.packages for text in texts):
                yield ast.unparse(node)


def _puts_together(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"join", "format"}


def test_nothing_of_ours_is_imported_by_a_string() -> None:
    assert not list(imports_by_string(Tree(ROOT)))


NEURONS, LANGUAGE = "plugins/neurons/sj_lang_neurons", "plugins/language/sj_lang_language"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("sj_lang/monitor", "importlib.import_module(f'sj_lang.{name}')"),
        ("sj_lang/monitor", "import importlib\nimportlib.import_module('.run', __package__)"),
        ("sj_lang/monitor", "from importlib import import_module as load\nload(NAME)"),
        ("sj_lang/monitor", "import importlib as loader\nloader.import_module(NAME)"),
        ("sj_lang/monitor", "import importlib\ngetattr(importlib, 'import_' + 'module')(NAME)"),
        ("sj_lang/monitor", "import pkgutil\npkgutil.resolve_name(NAME)"),
        ("sj_lang/monitor", "from pkgutil import resolve_name"),
        ("sj_lang/monitor", "import runpy\nrunpy.run_module(NAME)"),
        ("sj_lang/monitor", "__import__(NAME)"),
        ("sj_lang/monitor", "load = __import__"),
        ("sj_lang/monitor", "import builtins\nbuiltins.__import__(NAME)"),
        ("sj_lang/monitor", "exec('import ' + NAME)"),
        ("sj_lang/monitor", "__builtins__['__import__'](NAME)"),
        ("sj_lang/monitor", "load = __builtins__"),
        ("sj_lang/monitor", "globals()['__builtins__']"),
        ("sj_lang/monitor", "getattr(loader, '__import__')(NAME)"),
        ("sj_lang/monitor", "__loader__.load(NAME)"),
        ("sj_lang/monitor", "import sys\nsys.modules['sj_lang.run.series'].go()"),
        ("sj_lang/monitor", "from sys import modules as already\nalready[NAME]"),
        ("sj_lang/monitor", "import sys as system\nsystem.modules[NAME]"),
        ("sj_lang/monitor", "getattr(sys, 'mod' + 'ules')[NAME]"),
        ("sj_lang/monitor", "vars(sys)['mod' + 'ules'][NAME]"),
        (f"{NEURONS}/jit", "import sys\nsys.modules.get('sj_lang_neurons.dsn.reference')"),
        ("sj_lang/monitor", "from sj_lang.errors import not_imported as load\nload(NAME, '', '')"),
        ("sj_lang/monitor", "not_imported(NAME, '', '')"),
        ("sj_lang/monitor", "importlib.util.find_spec(NAME).loader.exec_module(module)"),
        ("sj_lang/monitor", "importlib.util.module_from_spec(importlib.util.find_spec(NAME))"),
        ("sj_lang/monitor", "from importlib.util import module_from_spec as make\nmake(NAME)"),
        ("sj_lang/monitor", "import pydoc\npydoc.locate(NAME)"),
        ("sj_lang/monitor", "from pydoc import locate"),
        ("sj_lang/monitor", "from importlib.metadata import EntryPoint\nEntryPoint('a', NAME, 'b').load()"),
        ("sj_lang/monitor", "from importlib import metadata\nmetadata.EntryPoint('a', NAME, 'b').load()"),
        ("sj_lang/monitor", "from importlib.metadata import entry_points"),
        ("sj_lang/manifest", "next(iter(entry_points())).load()"),
        ("sj_lang/compat", "MODULE = 'sj_lang.run.series'\nimportlib.import_module(MODULE)"),
        ("sj_lang/compat", "importlib.import_module('.run', __package__)"),
        ("sj_lang/compat", "load = importlib.import_module"),
        ("sj_lang/compat", "sys.modules['sj_lang.run.series']"),
        ("sj_lang/errors", "module = '.run'\nimportlib.import_module(module, __package__)"),
        ("sj_lang/errors", "module = 'sj_lang.run.series'\nimportlib.import_module(module)"),
        ("sj_lang/errors", "module = 'sj_lang' + '.run'\nimportlib.import_module(module)"),
        ("sj_lang/errors", "module = f'sj_lang.{NAME}'\nimportlib.import_module(module)"),
        ("sj_lang/errors", "module = '.'.join(['sj_lang', 'run'])\nimportlib.import_module(module)"),
        ("sj_lang/errors", "module = __package__ + '.run'\nimportlib.import_module(module)"),
        (f"{NEURONS}/dsn/torch", "import importlib\nimportlib.import_module('sj_lang_neurons.dsn.reference')"),
        (f"{NEURONS}/__init__", "importlib.import_module('sj_lang_neurons.dsn.reference')"),
        (f"{LANGUAGE}/data/hub", "from importlib import import_module\nimport_module('sj_lang_neurons.dsn')"),
    ],
)
def test_a_planted_import_by_string_is_caught(place: str, line: str, copy: Tree) -> None:
    name = copy.name(copy.root / f"{place}.py")
    with copy.planted(f"{place}.py", line):
        assert any(breach.startswith(f"{name}: ") for breach in imports_by_string(copy))
