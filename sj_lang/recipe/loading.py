"""A recipe: one YAML file of names and numbers.

All its keys, and the type of each value, are checked before anything is built. Ranges that only a
component knows are checked when it is built, before training. Importing this module imports no
torch; checking a recipe does, because components are checked against their classes, unless
`component.remember` knows what that says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sj_lang.component import values, yaml_marks
from sj_lang.component.problems import Keys, Problem, merge_misspelt, report, shown, unknown
from sj_lang.errors import PluginError, UserError, choices
from sj_lang.recipe import averages, checkpoint, overrides
from sj_lang.recipe.check import FORMAT, KEYS, PARENTS, SECTIONS, check_body, check_head, check_name, check_texts
from sj_lang.recipe.files import is_installed, locate, read_tree
from sj_lang.recipe.overrides import COMPONENTS, Tree


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe with all defaults. If it is a series, only the head counts; see `children`.

    notes: sentences for the user, e.g. that a new `type` dropped the old one's arguments.
    """

    path: Path
    recipe: int = FORMAT
    name: str
    summary: str = ""
    seed: int = 0
    output: str
    task: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    measure: dict[str, Any] = field(default_factory=dict)
    generate: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Recipe] | None = None
    seeds: list[int] | None = None
    averages: dict[str, dict[str, list[str]]] | None = None
    notes: list[str] = field(default_factory=list)

    def children(self) -> list[tuple[str, Recipe]]:
        """The runs of a series, in order, as (name, recipe); empty if this is one run.

        Their names are those of `runs:`, `seed-<n>` for seeds, `<run>/seed-<n>` for both; `seeds`
        wins over `seed`. Each child has its own folder in the output folder of this recipe.
        """
        children: list[tuple[str, Recipe]] = []
        runs = [("", self)] if self.runs is None else list(self.runs.items())
        for run, recipe in runs if self.is_series else []:
            for seed in self.seeds or [recipe.seed]:
                name = "/".join([run] * bool(run) + [f"seed-{seed}"] * bool(self.seeds))
                called, output = f"{self.name}/{name}", f"{self.output}/{name}"
                alone: dict[str, Any] = {"runs": None, "seeds": None, "averages": None, "notes": []}
                child = replace(recipe, name=called, output=output, seed=seed, **alone)
                children.append((name, child))
        return children

    @property
    def is_series(self) -> bool:
        """Whether this stands for several runs."""
        return self.runs is not None or self.seeds is not None

    def resolved(self) -> dict[str, Any]:
        """Plain data with all defaults written out; loads as a recipe and means the same."""
        data: dict[str, Any] = {key: getattr(self, key) for key in ("recipe", "name", "summary", "output")}
        if self.runs is None:
            data |= self._body()
        else:
            data["runs"] = {name: {"summary": run.summary, **run._body()} for name, run in self.runs.items()}
        series = {"seeds": self.seeds, "averages": self.averages}
        return data | {key: value for key, value in series.items() if value is not None}

    def _body(self) -> dict[str, Any]:
        keys = ("seed", *(key for key in COMPONENTS if getattr(self, key)), *SECTIONS)
        return {key: getattr(self, key) for key in keys}

    def dump_yaml(self) -> str:
        """`resolved()` as YAML text."""
        return yaml_marks.dump(self.resolved())


def load(recipe: str, changes: Iterable[str] = ()) -> Recipe:
    """Find, read and check a recipe: a path or a name, with `key.path=value` texts laid over it.

    Raises one UserError that lists all problems, each with its place, or a PluginError if a plugin
    that the recipe needs failed to load.
    """
    path, name = locate(recipe)
    tree = overrides.from_command_line(changes)
    if "base" in tree.data:
        place = tree.marks["base",]
        tree.problems.append(Problem(("base",), "cannot be changed from the command line", place=place))
        del tree.data["base"]
    loaded, problems = _load(path, name, tree, ())
    problems += tree.problems
    if problems or loaded is None:
        raise report(merge_misspelt(problems), shown(path))
    return loaded


def generation(changes: Iterable[str]) -> dict[str, Any]:
    """Check `key=value` texts for a stored recipe's `generate:`, and `seed`. UserError."""
    from sj_lang.component.schema import Argument
    from sj_lang.component.spec import resolve_arguments
    from sj_lang.recipe import sections

    tree = overrides.from_command_line(changes)
    schema = {**sections.generate_arguments(), "seed": Argument("seed", int, handed_in=True)}
    options, wrong = resolve_arguments(schema, tree.data, ())
    if problems := tree.problems + [problem.at(tree.marks) for problem in wrong]:
        raise report(problems, "the generation options")
    return {key: value for key, value in options.items() if key in tree.data}


#: Keys that the command line sets for a list of recipes, not for each of them.
_OF_LISTS = (*PARENTS, "summary")


def _load(path: Path, name: str, changes: Tree, chain: tuple[Path, ...]) -> tuple[Recipe | None, list[Problem]]:
    tree = read_tree(path)
    listed = _stays_a_list(tree, changes)
    tree.lay_over(changes.only(_OF_LISTS) if listed else changes)
    tree.data.setdefault("name", name)
    if problems := check_texts(tree.data):  # before a hub is asked for what holds them
        return None, [problem.at(tree.marks) for problem in problems]
    head, problems = check_head(tree.data)
    body: dict[str, Any] = {}
    runs: dict[str, Recipe] | None = None
    written = tree.data.get("runs")
    if written is None:
        contradictions = checkpoint.settle(tree)
        body, wrong = check_body(tree.data)
        wrong += contradictions
    elif isinstance(written, list):
        inner = changes.only(changes.data.keys() - _OF_LISTS)
        if "seeds" in head and not problems:  # instead of the seeds of the listed recipes
            inner = Tree({**inner.data, "seeds": head.pop("seeds")}, {**tree.marks, **changes.marks})
        runs, wrong = _load_listed(tree, written, path, inner, (*chain, path.resolve()))
    elif isinstance(written, dict):
        runs, wrong = _load_named(tree, written, path, changes)
    else:
        text = f"expected names with changes, or a list of recipes; found {values.tell(written)}"
        wrong = [Problem(("runs",), text)]
    head["averages"], wrong_averages = averages.check(tree.data.get("averages"), runs)
    if not wrong:  # else a run that is wrong itself may be missing among them
        wrong = wrong_averages
    problems = [problem.at(tree.marks) for problem in [*tree.problems, *problems, *wrong]]
    if problems:
        return None, problems
    notes = list(dict.fromkeys([*tree.notes, *(note for run in (runs or {}).values() for note in run.notes)]))
    return Recipe(path=path, runs=runs, notes=notes, **head, **body), []


def _stays_a_list(tree: Tree, changes: Tree) -> bool:
    """Whether `runs` is a list with the command line over it. UserError, or a problem of the tree,
    for a change of a run that does not exist."""
    written, asked = tree.data.get("runs"), changes.data.get("runs")
    if not isinstance(asked, dict):
        return isinstance(changes.data.get("runs", written), list)
    for name, change in asked.items():
        place = changes.marks.get(("runs", name)) or changes.marks[("runs",)]  # of runs={...}
        if isinstance(written, list) and not name.isdigit():
            raise UserError(f"{place}  runs: is a list of recipes here, in which no run can be changed alone")
        if isinstance(written, dict) and change is None and name not in written:
            tree.problems.append(Problem(("runs", name), f"no such run; {choices(name, list(written))}", place=place))
    return isinstance(written, list)


def _load_named(tree: Tree, runs: dict[str, Any], path: Path, changes: Tree) -> tuple[dict[str, Recipe], list[Problem]]:
    """The runs of `runs: {name: changes}`: each is the recipe with its changes, then those of the
    command line for all runs, then those of the command line for this run."""
    common, named = changes.only(changes.data.keys() - PARENTS), changes.data.get("runs")
    children: dict[str, Recipe] = {}
    problems = [] if runs else [Problem(("runs",), "is empty; name at least one run, or leave 'runs' out")]
    for name, written in runs.items():
        here: Keys = ("runs", name)
        problems += check_name(name, here)
        written = {} if written is None else written
        if not isinstance(written, dict):
            problems.append(Problem(here, f"expected changes to the recipe, found {values.tell(written)}"))
            continue
        allowed = [key for key in KEYS if key not in PARENTS]
        for key in written:
            if key in PARENTS:
                problems.append(Problem((*here, key), "belongs to the whole series, a run cannot set it"))
            elif key not in allowed:
                problems.append(unknown((*here, key), allowed))
        child = Tree(tree.data, tree.marks)
        marks = {k[2:]: replace(place, inside=here) for k, place in tree.marks.items() if k[:2] == here and k[2:]}
        child.lay_over(Tree(written, marks).only(allowed))
        if is_installed(path):
            child.notes.clear()
        child.lay_over(common)
        child.lay_over(Tree(named[name] if isinstance(named, dict) and name in named else {}, marks).only(allowed))
        head_keys = [key for key in child.data if key in ("name", "summary", "seed")]
        head, wrong_head = check_head({"recipe": FORMAT} | {key: child.data[key] for key in head_keys})
        contradictions = checkpoint.settle(child)
        body, wrong_body = check_body(child.data)
        wrong = [*child.problems, *wrong_head, *contradictions, *wrong_body]
        problems += [problem.at(child.marks) for problem in wrong]
        children[name] = Recipe(path=path, notes=child.notes, **head, **body)
    return children, problems


def _load_listed(
    tree: Tree, runs: list[Any], path: Path, changes: Tree, chain: tuple[Path, ...]
) -> tuple[dict[str, Recipe], list[Problem]]:
    """`runs: [recipe, ...]`: each with the command line over it; a series adds all its runs."""
    children: dict[str, Recipe] = {}
    problems = [] if runs else [Problem(("runs",), "the list is empty; name at least one recipe, or leave 'runs' out")]
    for key in tree.data:
        if key in (*COMPONENTS, *SECTIONS, "seed"):
            problems.append(Problem((key,), "has no effect beside a list of recipes; set it in those"))
    loaded: list[tuple[str, Recipe]] = []
    for index, entry in enumerate(runs):
        here: Keys = ("runs", index)
        if not isinstance(entry, str):
            problems.append(Problem(here, f"expected the name or path of a recipe, found {values.tell(entry)}"))
            continue
        try:
            place, name = locate(entry, path.parent)
            if place.resolve() in chain:
                raise UserError("a series cannot contain itself")
            recipe, wrong = _load(place, name, changes, chain)
        except UserError as error:
            problems.append(Problem(here, str(error)))
        except PluginError as error:
            problems.append(Problem(here, str(error), "plugin"))
        else:
            problems += wrong
            loaded += [(name, recipe)] if recipe else []
    short = Counter(Path(name).name for name, _ in loaded)
    for name, recipe in loaded:
        label = name if short[Path(name).name] > 1 else Path(name).name
        inner = {f"{label}/{run}": child for run, child in recipe.children()} if recipe.is_series else {label: recipe}
        for run in set(inner) & set(children):
            problems.append(Problem(("runs",), f"two runs are called '{run}'"))
        children |= inner
    return children, problems
