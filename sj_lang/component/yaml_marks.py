"""YAML as recipes use it: numbers and booleans of YAML 1.2, no key twice, and places of all keys.

`3e-4` and `1e5` are numbers; `on`, `yes` and `1:30` are words. Tags are refused: a file holds data.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sj_lang.component.problems import Keys, Place, Problem, shown
from sj_lang.errors import UserError

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 32  # sections inside one another
MOST = 50_000  # values of a file, counted at each alias; 100 characters of a text are one
MOST_KEYS = 1000  # of one section
_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None} | {
    spelling: value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for spelling in (word, word.capitalize(), word.upper())
}


def scalar(text: str) -> Any:
    """A plain (unquoted) scalar of YAML 1.2. ValueError for a whole number beyond 64 bits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        number = (int(text, 0) if text[:2] in ("0o", "0x") else int(text)) if len(text) < 99 else 1 << 64
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError("expected a whole number of at most 64 bits; put digits that are text in quotes")
        return number
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


class Document:
    """A YAML file as plain data, the place of each key and item, and the problems of its form."""

    def __init__(self, node: yaml.Node | None, file: str) -> None:
        self.file = file
        self.marks: dict[Keys, Place] = {(): Place(file)}
        self.problems: list[Problem] = []
        self._open: list[int] = []
        self._count = 0
        self.data: Any = None if node is None else self._plain(node, ())

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _plain(self, node: yaml.Node, keys: Keys) -> Any:
        if id(node) in self._open:
            self.problems.append(Problem(keys, "a section cannot contain itself", place=self._place(node)))
            return None
        self._count += 1 + (len(node.value) // 100 if isinstance(node, yaml.ScalarNode) else 0)
        if len(self._open) >= DEEPEST or self._count > MOST:
            limit = f"{MOST:,} values" if self._count > MOST else f"{DEEPEST} levels of nesting"
            raise UserError(f"{self._place(node)}  a recipe cannot have more than {limit}")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, keys)
            if isinstance(node, yaml.SequenceNode):
                self.marks |= {(*keys, index): self._place(item) for index, item in enumerate(node.value)}
                return [self._plain(item, (*keys, index)) for index, item in enumerate(node.value)]
            quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
            return node.value if quoted else scalar(node.value)
        except ValueError as error:
            self.problems.append(Problem(keys, str(error), place=self._place(node)))
            return None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        if len(node.value) > MOST_KEYS:
            raise UserError(f"{self._place(node)}  a section cannot hold more than {MOST_KEYS:,} keys")
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(
                    Problem(keys, "expected a word as the key, found a list or mapping", place=self._place(key))
                )
                continue
            name = str(key.value)
            here, place = (*keys, name), self._place(key)
            if name in mapping:
                first = self.marks[here].line
                self.problems.append(Problem(here, f"this key is here twice, first in line {first}", place=place))
                continue
            self.marks[here] = place
            mapping[name] = self._plain(value, here)
        return mapping


def parse(text: str, file: str) -> Document:
    """Read YAML text. UserError, one message with line and column, if it is not YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        tokens = yaml.scan(text) if "!" in text else ()
        tag = next((token for token in tokens if isinstance(token, yaml.TagToken)), None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        problem = (error.problem or error.context or "").replace("found unexpected", "did not expect the")
        raise UserError(f"{where}  not valid YAML: {problem}") from error
    except RecursionError as error:
        raise UserError(f"{file}  a recipe cannot have more than {DEEPEST} levels of nesting") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}  not valid YAML: {' '.join(str(error).split())}") from error
    if tag is not None:
        where = f"{file}:{tag.start_mark.line + 1}:{tag.start_mark.column + 1}"
        name = "".join(part or "" for part in tag.value)
        raise UserError(f"{where}  a recipe holds names and numbers; the tag '{name}' is not allowed")
    return Document(node, file)


def read(path: Path) -> Document:
    """Read a YAML file that holds a mapping. UserError if it cannot be read, or holds none."""
    file = shown(path)
    try:
        with path.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
    except IsADirectoryError as error:
        inside = path / "recipe.yaml"
        raise UserError(f"{file} is a folder{f'; its recipe is {shown(inside)}' if inside.exists() else ''}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise UserError(f"{file} has more than {LARGEST:,} bytes, which no recipe needs")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}  not UTF-8: byte 0x{raw[error.start]:02x}; save the file as UTF-8") from error
    document = parse(text, file)
    if document.data is None:
        raise UserError(f"{file} is empty; a recipe needs at least: recipe, task, tokenizer, model")
    if not isinstance(document.data, dict):
        shape = "a list" if isinstance(document.data, list) else f"only {str(document.data)[:40]!r}"
        raise UserError(f"{file}: expected keys with values (such as 'recipe: 1'), found {shape}")
    return document


def value(text: str) -> Any:
    """The value of an override: YAML if it begins like a list, mapping or quotation, else a scalar.

    ValueError if it is not YAML.
    """
    stripped = text.strip()
    if not stripped.startswith(("[", "{", '"', "'")):
        return scalar(stripped)
    try:
        document = parse(stripped, "value")
    except UserError as error:
        raise ValueError(str(error).partition("  ")[2].removeprefix("not valid YAML: ")) from error
    if document.problems:
        raise ValueError(document.problems[0].message)
    return document.data


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
_Dumper.add_implicit_resolver(_TAG + "float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))
_Dumper.add_implicit_resolver(_TAG + "int", re.compile(rf"^(?:{_INT.pattern})$"), list("-+0123456789"))


def dump(data: Mapping[str, Any]) -> str:
    """Plain data as YAML text that `parse` reads back as it was."""
    return yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
    )
