"""Recipes as files: found by path or name, read with their bases, before anything is checked."""

import functools
import re
from pathlib import Path
from typing import Any

from sj_lang import plugins
from sj_lang.component import yaml_marks
from sj_lang.component.problems import Keys, Place, Problem, shown
from sj_lang.errors import PluginError, UserError, choices, nearest
from sj_lang.manifest import write_text
from sj_lang.recipe.overrides import Tree

#: Keys that belong to one file and are not taken over from a base.
NOT_FROM_BASE = ("recipe", "base", "name", "summary", "output")


def locate(recipe: str, near: Path | None = None) -> tuple[Path, str]:
    """The file of a recipe, and its name by default. near: the folder that paths are relative to.

    A path comes before the name of an installed recipe. UserError, with the nearest names, if there
    is neither.
    """
    path = (near or Path()) / Path(recipe).expanduser()
    if path.is_file():
        return path, path.stem
    installed = plugins.recipes()
    if recipe in installed:
        return installed[recipe], recipe
    clash = plugins.registry().clashes().get(("recipe", recipe))
    if clash:
        raise PluginError(clash)
    if path.is_dir() or recipe.endswith((".yaml", ".yml")):
        if not path.exists():
            hint = choices(str(Path(recipe).with_suffix("")), list(installed), limit=0)
            hint = f"; {hint}" if hint else "; list the installed recipes with `sj-lang ls`"
            raise UserError(f"no file {shown(path)}{hint}")
        return path, path.name  # reading it says what is wrong
    for plugin in plugins.registry().broken():
        if recipe.startswith(f"{plugin.name}/") or not nearest(recipe, installed):
            raise PluginError(f"no recipe '{recipe}': {plugin}, which may offer it, failed to load: {plugin.error}")
    hint = choices(recipe, list(installed)) or "list them with `sj-lang ls`"
    raise UserError(f"no recipe '{recipe}': neither a file nor the name of an installed recipe; {hint}")


def read_tree(path: Path, chain: tuple[Path, ...] = ()) -> Tree:
    """Read a recipe file and lay it over its base, if it names one. The tree has its problems."""
    document = yaml_marks.read(path)
    data: dict[str, Any] = document.data
    marks, problems = _nest_runs(data, document.marks)
    problems = document.problems + problems
    tree = Tree()
    if "base" in data:
        place = marks[("base",)]
        base = data.pop("base")
        if not isinstance(base, str):
            raise UserError(f"{place}  base: expected the name or path of one recipe, found {base!r}")
        tree = _read_base(base, path, place, (*chain, path.resolve()))
    tree.marks |= {keys: place for keys, place in marks.items() if not keys}
    tree.problems += problems
    tree.lay_over(Tree(data, marks))
    if is_installed(path):
        tree.notes.clear()  # what it drops of its base, it drops on purpose
    return tree


def is_installed(path: Path) -> bool:
    """Whether this is a recipe that a plugin brings."""
    return path.resolve() in _resolved(tuple(plugins.recipes().values()))


@functools.lru_cache(maxsize=1)
def _resolved(paths: tuple[Path, ...]) -> frozenset[Path]:
    return frozenset(path.resolve() for path in paths)


def _read_base(base: str, path: Path, place: Place, chain: tuple[Path, ...]) -> Tree:
    try:
        base_path, _ = locate(base, path.parent)
        if base_path.resolve() in chain:
            cycle = " -> ".join(shown(step) for step in [*chain[chain.index(base_path.resolve()) :], base_path])
            raise UserError(f"a recipe cannot be its own base: {cycle}")
    except (UserError, PluginError) as error:
        raise type(error)(f"{place}  base: {error}") from error
    tree = read_tree(base_path, chain)
    for key in NOT_FROM_BASE:
        tree.data.pop(key, None)
        tree.marks.pop((key,), None)
    return tree


def _nest_runs(data: dict[str, Any], marks: dict[Keys, Place]) -> tuple[dict[Keys, Place], list[Problem]]:
    """Nest keys with dots (`runs: {a: {model.twin: true}}`) in place; return marks and problems."""
    runs, problems = data.get("runs"), []
    kept = dict(marks)
    if not isinstance(runs, dict):
        return kept, []
    for name, run in runs.items():
        if not isinstance(run, dict):
            continue
        here: Keys = ("runs", name)
        tree = Tree()
        for key, value in run.items():
            inner = {keys[3:]: place for keys, place in marks.items() if keys[:3] == (*here, key)}
            if key.count(".") >= yaml_marks.DEEPEST:
                place = marks[*here, key]
                raise UserError(f"{place}  expected at most {yaml_marks.DEEPEST} levels of nesting")
            tree.nest(tuple(key.split(".")), value, inner)
        runs[name] = tree.data
        problems += [problem.under(*here) for problem in tree.problems]
        kept = {keys: place for keys, place in kept.items() if keys[:2] != here or len(keys) == 2}
        kept |= {(*here, *keys): place for keys, place in tree.marks.items()}
    return kept, problems


def copy(recipe: str, dest: str) -> Path:
    """Copy a recipe's file as it is to a new file or into an existing folder; return the copy.

    If the base is a path relative to the old file, the copy has its full path.
    """
    source, name = locate(recipe)
    document = yaml_marks.read(source)
    target = Path(dest).expanduser()
    if target.is_dir() or dest.endswith("/"):
        target = target / f"{Path(name).name}.yaml"
    if target.exists() or target.is_symlink():
        raise UserError(f"{shown(target)} already exists; choose another file")
    if not target.parent.is_dir():
        raise UserError(f"no folder {shown(target.parent)}; make it first or choose another")
    text = source.read_text(encoding="utf-8-sig")
    base = document.data.get("base")
    if isinstance(base, str) and (source.parent / base).is_file():
        full = yaml_marks.dump({"base": str((source.parent / base).resolve())})
        text = re.sub(r"^base:.*\n?", lambda _: full, text, count=1, flags=re.MULTILINE)
    try:
        write_text(target, text)
    except OSError as error:
        raise UserError(f"cannot write {shown(target)}: {error.strerror or error}") from error
    return target
