"""Values laid over others: a recipe over its base, a run or the command line over a recipe.

Mappings are merged, everything else is replaced; null in place of a run drops it. A component that
gets another `type` loses the old type's arguments. A component that wraps another of its kind, as a
distillation wraps a task, wraps the one that was there unless it names one, and hands on the keys
that only the wrapped one has.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sj_lang.component import schema, yaml_marks
from sj_lang.component.problems import Keys, Place, Places, Problem, dotted
from sj_lang.errors import PluginError, UserError

#: Changes whose value no message may show.
_SECRET = re.compile(r"(token|secret|password|key)\s*=|=\W*hf_", re.IGNORECASE)
COMPONENTS = ("task", "tokenizer", "model")


class Tree:
    """Nested values, the place where each was written, notes for the user, and problems of form."""

    def __init__(self, data: Mapping[str, Any] | None = None, marks: Places | None = None) -> None:
        self.data: dict[str, Any] = copy.deepcopy(dict(data or {}))
        self.marks: dict[Keys, Place] = dict(marks or {})
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def only(self, keys: Collection[str]) -> Tree:
        """A copy with some of the keys at the top; notes and problems start empty."""
        return Tree({key: value for key, value in self.data.items() if key in keys}, self.marks)

    def lay_over(self, changes: Tree) -> None:
        """Lay the values of another tree over this one."""
        for key, value in changes.data.items():
            self.data[key] = self._laid((key,), self.data.get(key), value, changes.marks)

    def nest(self, keys: Keys, value: Any, marks: Places) -> None:
        """Set a value at a path of keys, which may be set in any order, but none twice.

        marks: relative to the value; that of () is the place of the entry. A name beside arguments
        for the same key is its `type`.
        """
        for end in range(1, len(keys)):
            self.marks.setdefault(keys[:end], marks[()])
        self.problems += _insert(self.data, keys, value, (), marks[()])
        for inner, place in marks.items():
            self.marks.setdefault((*keys, *inner), place)

    def _laid(self, keys: Keys, old: Any, new: Any, marks: Places) -> Any:
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
        self, kind: str, keys: Keys, old: dict[str, Any], new: dict[str, Any], marks: Places
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

    def _merged(self, keys: Keys, old: dict[str, Any], new: dict[str, Any], marks: Places) -> dict[str, Any]:
        merged = old | {key: self._laid((*keys, key), old.get(key), value, marks) for key, value in new.items()}
        dropped = [name for name in old if name in new and new[name] is None] if keys == ("runs",) else []
        return {key: value for key, value in merged.items() if key not in dropped}

    def _laid_items(self, keys: Keys, old: list[Any], new: dict[str, Any], marks: Places) -> list[Any]:
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

    def _take_mark(self, keys: Keys, marks: Places) -> None:
        if keys in marks and keys not in self.marks:
            self.marks[keys] = marks[keys]

    def _replace_marks(self, keys: Keys, marks: Places) -> None:
        size = len(keys)
        self.marks = {path: place for path, place in self.marks.items() if path[:size] != keys}
        self.marks |= {path: place for path, place in marks.items() if path[:size] == keys}


def _spec(value: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": value} if isinstance(value, str) else value


def _names_a_type(value: Any) -> bool:
    return not isinstance(value, dict) or "type" in value


def _arguments(kind: str, name: Any) -> Mapping[str, schema.Argument]:
    """The arguments of a component; none if it is unknown, which the later check reports."""
    try:
        return schema.arguments_of(kind, name) if isinstance(name, str) else {}
    except (UserError, PluginError):
        return {}


def _wrapped(kind: str, name: Any) -> str:
    """The argument of a component that is another of its own kind; "" if there is none."""
    return next((key for key, argument in _arguments(kind, name).items() if argument.part == kind), "")


def _handed_on(
    kind: str, keys: Keys, wrapped: str, old: dict[str, Any], new: dict[str, Any], marks: Places
) -> tuple[dict[str, Any], Places]:
    """`new` and its marks, with keys that only the component inside `old` has below `wrapped`."""
    outside, below = _arguments(kind, old["type"]), new.get(wrapped, {})
    inside = _arguments(kind, _spec(old.get(wrapped, "")).get("type"))
    inner = {key: value for key, value in new.items() if key in inside and key not in outside}
    if not inner or not isinstance(below, str | dict):
        return new, marks
    for key in inner:
        marks = _moved(marks, keys, (*keys, key), (*keys, wrapped, key))
    rest = {key: value for key, value in new.items() if key not in inner}
    return {**rest, wrapped: _spec(below) | inner}, marks


def _moved(marks: Places, holder: Keys, old: Keys, new: Keys) -> dict[Keys, Place]:
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
    """The components of a recipe with those of one of its runs laid over them."""
    runs = data.get("runs")
    run = runs.get(name) if isinstance(runs, dict) else None
    changes = run if isinstance(run, dict) else {}
    components = {kind: data.get(kind) for kind in COMPONENTS}
    for kind, outer in components.items():
        inner = changes.get(kind)
        if isinstance(outer, str | dict) and isinstance(inner, str | dict):
            components[kind] = _spec(outer) | _spec(inner)
        elif inner is not None:
            components[kind] = inner
    return components


def _insert(data: dict[str, Any], keys: Keys, value: Any, under: Keys, place: Place) -> list[Problem]:
    """Set a value at a path of keys, and return the problems. under: the path of `data` itself."""
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


def from_command_line(texts: Iterable[str]) -> Tree:
    """The values of `key.path=value` texts, typed as in YAML."""
    tree = Tree()
    for text in texts:
        path, sign, value = text.partition("=")
        place = Place(f"command line '{f'{path:.100}=...' if _SECRET.search(text) or len(text) > 200 else text}'")
        keys = tuple(path.strip().split("."))
        if not sign or not all(keys):
            tree.problems.append(Problem((), "expected key=value, such as train.learning_rate=3e-4", place=place))
            continue
        if len(keys) > yaml_marks.DEEPEST:
            text = f"expected at most {yaml_marks.DEEPEST} levels of nesting, found {len(keys)}"
            tree.problems.append(Problem(keys[:3], text, place=Place("command line")))
            continue
        try:
            tree.nest(keys, yaml_marks.value(value), {(): place})
        except ValueError as error:
            tree.problems.append(Problem(keys, f"not valid YAML: {error}", place=place))
    return tree
