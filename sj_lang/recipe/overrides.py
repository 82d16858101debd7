"""Laying one set of values over another: a recipe over its base, a run or the command line over a recipe.

Mappings are merged, everything else is replaced. A component that gets another `type` loses the old
type's arguments. A component that wraps another of its kind, as a distillation wraps a task, wraps
the one that was there unless it names one, and hands on the keys that only the wrapped one has.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sj_lang import plugins
from sj_lang.component import schema, yaml_marks
from sj_lang.component.problems import Keys, Marks, Place, Problem, dotted
from sj_lang.errors import PluginError, UserError

#: Changes whose value no message may show.
_SECRET = re.compile(r"(token|secret|password|key)\s*=|=\W*hf_", re.IGNORECASE)
COMPONENTS = ("task", "tokenizer", "model")


class Tree:
    """Nested values of a recipe, with the place where each was written."""

    def __init__(self, data: Mapping[str, Any] | None = None, marks: Marks | None = None) -> None:
        self.data: dict[str, Any] = copy.deepcopy(dict(data or {}))
        self.marks: dict[Keys, Place] = dict(marks or {})
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def copy(self) -> Tree:
        """A deep copy; notes and problems start empty."""
        return Tree(self.data, self.marks)

    def lay_over(self, data: Mapping[str, Any], marks: Marks) -> None:
        """Lay values over this tree."""
        for key, value in data.items():
            self.data[key] = self._laid((key,), self.data.get(key), value, marks)

    def _laid(self, keys: Keys, old: Any, new: Any, marks: Marks) -> Any:
        kind = part_kind(self.data, keys)
        if kind and isinstance(new, str | dict) and isinstance(old, str | dict):
            return self._laid_component(kind, keys, _spec(old), _spec(new), marks)
        if isinstance(old, dict) and isinstance(new, dict):
            self._take_mark(keys, marks)
            return self._merged(keys, old, new, marks)
        if isinstance(old, list) and isinstance(new, dict) and new and all(str(key).isdigit() for key in new):
            return self._laid_items(keys, old, new, marks)
        self._replace_marks(keys, marks)
        return copy.deepcopy(new)

    def _laid_component(
        self, kind: str, keys: Keys, old: dict[str, Any], new: dict[str, Any], marks: Marks
    ) -> dict[str, Any]:
        before, after = old.get("type"), new.get("type", old.get("type"))
        wrapped = _wrapped(kind, after)
        if wrapped and before is not None and before != after and not _names_a_type(new.get(wrapped, {})):
            self.marks = _moved(self.marks, keys, keys, (*keys, wrapped))
            before, old = after, {"type": after, wrapped: old}
        if wrapped and before == after:
            new, marks = _handed_on(kind, keys, wrapped, old, new, marks)
        if before is not None and before != after:
            dropped = [name for name in old if name != "type"]
            if dropped:
                self.notes.append(
                    f"{dotted(keys)}: type is now {after}; the arguments of {before} are dropped: {', '.join(dropped)}"
                )
            self._replace_marks(keys, marks)
            return copy.deepcopy(new)
        self._take_mark(keys, marks)
        return self._merged(keys, old, new, marks)

    def _merged(self, keys: Keys, old: dict[str, Any], new: dict[str, Any], marks: Marks) -> dict[str, Any]:
        return old | {key: self._laid((*keys, key), old.get(key), value, marks) for key, value in new.items()}

    def _laid_items(self, keys: Keys, old: list[Any], new: dict[str, Any], marks: Marks) -> list[Any]:
        items = list(old)
        for key, value in new.items():
            index = int(key)
            if index < len(items):
                items[index] = self._laid((*keys, index), items[index], value, marks)
                if (*keys, key) in marks:
                    self.marks[(*keys, index)] = marks[(*keys, key)]
            else:
                place = marks.get((*keys, key))
                self.problems.append(Problem((*keys, key), f"the list has {len(items)} items, from 0", place=place))
        return items

    def _take_mark(self, keys: Keys, marks: Marks) -> None:
        if keys in marks and keys not in self.marks:
            self.marks[keys] = marks[keys]

    def _replace_marks(self, keys: Keys, marks: Marks) -> None:
        size = len(keys)
        self.marks = {path: place for path, place in self.marks.items() if path[:size] != keys}
        self.marks |= {path: place for path, place in marks.items() if path[:size] == keys}


def _spec(value: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": value} if isinstance(value, str) else value


def _names_a_type(value: Any) -> bool:
    return not isinstance(value, dict) or "type" in value


def _arguments(kind: str, name: Any) -> Mapping[str, schema.Argument]:
    """The arguments of a component; none if it is not known, which the check that follows reports."""
    try:
        return schema.arguments(kind, plugins.get(kind, name).load()) if isinstance(name, str) else {}
    except (UserError, PluginError):
        return {}


def _wrapped(kind: str, name: Any) -> str:
    """The argument of a component that is another of its own kind; "" if there is none."""
    return next((key for key, argument in _arguments(kind, name).items() if argument.part == kind), "")


def _handed_on(
    kind: str, keys: Keys, wrapped: str, old: dict[str, Any], new: dict[str, Any], marks: Marks
) -> tuple[dict[str, Any], Marks]:
    """`new` and its marks with the keys that only the component inside `old` has below `wrapped`."""
    outside, below = _arguments(kind, old["type"]), new.get(wrapped, {})
    inside = _arguments(kind, _spec(old.get(wrapped, "")).get("type"))
    inner = {key: value for key, value in new.items() if key in inside and key not in outside}
    if not inner or not isinstance(below, str | dict):
        return new, marks
    for key in inner:
        marks = _moved(marks, keys, (*keys, key), (*keys, wrapped, key))
    rest = {key: value for key, value in new.items() if key not in inner}
    return {**rest, wrapped: _spec(below) | inner}, marks


def _moved(marks: Marks, holder: Keys, old: Keys, new: Keys) -> dict[Keys, Place]:
    """Marks with those below `old` below `new`; the mark of `holder` itself stays."""
    size = len(old)
    return {(new + path[size:] if path[:size] == old and path != holder else path): p for path, p in marks.items()}


def part_kind(data: Mapping[str, Any], keys: Keys) -> str:
    """The kind of component at `keys` in a recipe; "" if there is none, or it is not known."""
    if len(keys) > 2 and keys[0] == "runs":
        return part_kind(_as_in_run(data, str(keys[1])), keys[2:])
    if not keys or keys[0] not in COMPONENTS:
        return ""
    kind, spec = str(keys[0]), data.get(str(keys[0]))
    for key in keys[1:]:
        name = spec if isinstance(spec, str) else spec.get("type") if isinstance(spec, dict) else None
        if not isinstance(name, str):
            return ""
        argument = _arguments(kind, name).get(str(key))
        if argument is None or not argument.part:
            return ""
        kind = argument.part
        spec = spec.get(key, argument.default) if isinstance(spec, dict) else argument.default
    return kind


def _as_in_run(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    runs = data.get("runs")
    run = runs.get(name) if isinstance(runs, dict) else None
    components: dict[str, Any] = {}
    for kind in COMPONENTS:
        outer, inner = data.get(kind), run.get(kind) if isinstance(run, dict) else None
        both = isinstance(outer, str | dict) and isinstance(inner, str | dict)
        components[kind] = {**_spec(outer), **_spec(inner)} if both else outer if inner is None else inner  # type: ignore[arg-type]
    return components


def nest(entries: Iterable[tuple[Keys, Any, Marks]]) -> tuple[dict[str, Any], dict[Keys, Place], list[Problem]]:
    """Merge values with key paths into one nested mapping, in any order; none may be set twice.

    The marks of an entry are relative to its value; the mark of () is the place of the entry. A
    name beside arguments for the same key is its `type`.
    """
    data: dict[str, Any] = {}
    marks: dict[Keys, Place] = {}
    problems: list[Problem] = []
    for keys, value, inner_marks in entries:
        for end in range(1, len(keys)):
            marks.setdefault(keys[:end], inner_marks.get((), Place("")))
        problems += _insert(data, keys, value, (), inner_marks.get(()))
        for inner, place in inner_marks.items():
            marks.setdefault((*keys, *inner), place)
    return data, marks, problems


def _insert(data: dict[str, Any], keys: Keys, value: Any, under: Keys, place: Place | None) -> list[Problem]:
    """Put a value at a key path; `under`: the path of `data` itself, for the problems that are returned."""
    full = (*under, *keys)
    *sections, last = (str(key) for key in keys)
    for key in sections:
        inner = data.setdefault(key, {})
        if isinstance(inner, str):
            inner = data[key] = {"type": inner}
        if not isinstance(inner, dict):
            return [Problem(full, f"'{key}' is given as a value and as a section", place=place)]
        data = inner
    if last not in data:
        data[last] = copy.deepcopy(value)
        return []
    if isinstance(data[last], dict) and isinstance(value, str | dict):
        return [
            problem for key, item in _spec(value).items() for problem in _insert(data[last], (key,), item, full, place)
        ]
    return [Problem(full, "is given twice", place=place)]


def from_command_line(texts: Iterable[str]) -> tuple[dict[str, Any], dict[Keys, Place], list[Problem]]:
    """`key.path=value` texts as one nested mapping; values are typed as in YAML."""
    entries: list[tuple[Keys, Any, Marks]] = []
    problems: list[Problem] = []
    for text in texts:
        path, sign, value = text.partition("=")
        place = Place(f"command line '{f'{path:.100}=...' if _SECRET.search(text) or len(text) > 200 else text}'")
        keys = tuple(path.strip().split("."))
        if not sign or not all(keys):
            problems.append(Problem((), "expected key=value, such as train.learning_rate=3e-4", place=place))
            continue
        if len(keys) > yaml_marks.DEEPEST:
            text = f"expected at most {yaml_marks.DEEPEST} keys in one another, found {len(keys)}"
            problems.append(Problem(keys[:3], text, place=Place("command line")))
            continue
        try:
            entries.append((keys, yaml_marks.value(value), {(): place}))
        except ValueError as error:
            problems.append(Problem(keys, f"not valid YAML: {error}", place=place))
    data, marks, wrong = nest(entries)
    return data, marks, problems + wrong
