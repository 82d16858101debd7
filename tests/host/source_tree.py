"""What the sources of the four packages import, in this repository or in a copy of it."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: tests that are false when a program runs
TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


class Tree:
    """The packages below `root`, a repository: by import name, the folder of each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        plugins = [path.parent for path in sorted(root.glob("plugins/*/*/plugin.py"))]
        self.packages = {folder.name: folder for folder in (root / "sj_lang", *plugins)}
        assert {"sj_lang", "sj_lang_neurons", "sj_lang_language", "sj_lang_tasks"} <= set(self.packages)

    def copy(self, target: Path) -> Tree:
        """Sources and recipes alone, in a new folder."""
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        for name in ("sj_lang", "plugins", "recipes"):
            shutil.copytree(self.root / name, target / name, ignore=ignore)
        return Tree(target)

    @contextmanager
    def planted(self, place: str, line: str) -> Iterator[None]:
        """Inside, a line more at the end of a file."""
        path = self.root / place
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}{line}\n", encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")

    def sources(self, package: str, *folders: str, templates: bool = False) -> list[Path]:
        """The Python files of a package or of one of its folders. templates: also theirs."""
        paths = sorted(self.packages[package].joinpath(*folders).rglob("*.py"))
        assert paths, (package, folders)
        return [path for path in paths if templates or not {"template", "template_parts"} & {*path.parts}]

    def name(self, path: Path) -> str:
        """The import name of a file: "sj_lang.run.trainer"; a package is its `__init__.py`."""
        owner = next(folder for folder in self.packages.values() if path.is_relative_to(folder))
        return ".".join(path.relative_to(owner.parent).with_suffix("").parts).removesuffix(".__init__")

    def file(self, name: str) -> Path | None:
        """The file of a module or package of ours; None if the name is not one."""
        first, *rest = name.split(".")
        if first not in self.packages:
            return None
        place = self.packages[first].joinpath(*rest)
        return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)

    def modules(self, path: Path) -> set[Path]:
        """The files of ours that a file imports, inside functions and for type checkers too.

        `from package import module` names the module alone, `from package import function` the
        package. Packages on the way are left out.
        """
        return self._files(imports(path))

    def reached(self, starts: Iterable[Path]) -> set[Path]:
        """`modules`, and theirs, and so on."""
        seen: set[Path] = set()
        waiting = [module for start in starts for module in self.modules(start)]
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                waiting += self.modules(path)
        return seen

    def needed(self, path: Path) -> set[Path]:
        """`modules` without those that only type checkers import."""
        return self._files(imports(path, typing=False))

    def _files(self, names: Iterable[str]) -> set[Path]:
        """Of packages only those of which something is taken that is no module of theirs."""
        taken: dict[str, set[str]] = {name: set() for name in names}
        for name in taken:
            if (package := _parent(name)) in taken:
                taken[package].add(name)
        named = {name for name, parts in taken.items() if not parts or not all(map(self.file, parts))}
        return {path for name in named if (path := self.file(name)) is not None}


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def imports(path: Path, *, functions: bool = True, typing: bool = True) -> set[str]:
    """The full names that a file imports; relative ones are resolved.

    functions: also inside functions. typing: also in the body of a bare `if TYPE_CHECKING`.
    """
    return _imports_of(path.read_text(encoding="utf-8"), path, functions, typing)


@cache
def _imports_of(text: str, path: Path, functions: bool, typing: bool) -> set[str]:
    return set(_imports(_parsed(text), path, functions, typing))


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which nobody may change."""
    return _parsed(path.read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _imports(node: ast.AST, path: Path, functions: bool, typing: bool) -> Iterator[str]:
    unseen = not typing and isinstance(node, ast.If) and ast.unparse(node.test) in TYPE_CHECKING
    for child in node.orelse if unseen else ast.iter_child_nodes(node):
        if not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _package(path, child.level) if child.level else ""
            name = ".".join(part for part in (base, child.module or "") if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in child.names)
        yield from _imports(child, path, functions, typing)


def _package(path: Path, level: int) -> str:
    """The package that a relative import of this level starts from."""
    folder = path.parents[level - 1]
    names = []
    while (folder / "__init__.py").exists():
        names.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(names))


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


#: a rule: the places of a tree that break it, by the names of their modules
Breaches = Callable[[Tree], Iterable[str]]


def caught(breaches: Breaches, place: str, line: str, copy: Tree) -> bool:
    """Whether a line that is planted in a module of the host is a breach there."""
    with copy.planted(f"sj_lang/{place}.py", line):
        name = f"sj_lang.{place.replace('/', '.')}"
        return any(name in breach for breach in breaches(copy))
