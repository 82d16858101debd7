"""Docstrings of this repository as reStructuredText, for the API reference.

A docstring here is plain text: single backticks around code, equations indented by four, and a line
`name: meaning` for each argument or field.
"""

import inspect
import re
from collections.abc import Collection
from typing import Any

_NAME = r"(?:\\\*){0,2}[A-Za-z_][\w.]*"
_FIELDS = re.compile(rf"(?:^|(?<=[.)”\"] ))({_NAME}(?:,\s{_NAME})*):\s", re.MULTILINE)
_ITEM = re.compile(r"\\(\* )|(\d+\. )")


def prose(text: str) -> str:
    """Double the backticks; outside them, escape what has a meaning in reStructuredText alone."""
    code = iter(f"`{match}`" for match in re.findall(r"`[^`]+`", text))
    plain = [re.sub(r"([*|\\`]|_(?!\w))", r"\\\1", part) for part in re.split(r"`[^`]+`", text)]
    return "".join(part + next(code, "") for part in plain)


def paragraph(text: str, arguments: Collection[str]) -> list[str]:
    """The lines of one paragraph: of an equation, of fields, or of prose with or without a list."""
    if text.startswith("    "):
        return ["::", "", *[f"    {line}" for line in text.split("\n")]]
    escaped = prose(text)
    fields = [match for match in _FIELDS.finditer(escaped) if _is_field(match, arguments)]
    if fields and fields[0].start() == 0:
        ends = [match.start() for match in fields[1:]] + [len(escaped)]
        return [
            line
            for match, end in zip(fields, ends, strict=True)
            for line in _field(" ".join(match[1].split()), escaped[match.end() : end])
        ]
    result: list[str] = []
    for line in escaped.split("\n"):
        item = _ITEM.match(line)
        result += ["", (item[1] or item[2]) + line[item.end() :]] if item else [line]
    return result


def _is_field(match: re.Match[str], arguments: Collection[str]) -> bool:
    """At the beginning of a line any name is one; inside a line only an argument of the object."""
    begins = match.start() == 0 or match.string[match.start() - 1] == "\n"
    return begins or all(name.strip().lstrip("\\*") in arguments for name in match[1].split(","))


def _field(names: str, meaning: str) -> list[str]:
    first, *rest = meaning.strip().split("\n")
    return [f"* **{names}**: {first}", *[f"  {line.strip()}" for line in rest]]


def convert(text: str, arguments: Collection[str] = ()) -> list[str]:
    """An unindented docstring -> lines of reStructuredText. arguments: of the object."""
    parts = [part for part in re.split(r"\n\s*\n", text.strip("\n")) if part]
    return [line for part in parts for line in (*paragraph(part, arguments), "")]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    try:
        arguments = [*inspect.signature(obj).parameters]
    except (TypeError, ValueError):  # it is no function, and no class that Python can tell of
        arguments = []
    lines[:] = convert("\n".join(lines), arguments)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """What other packages have documented, such as a function of SpikingJelly, is left out."""
    return None if getattr(obj, "__module__", None) is None or obj.__module__.startswith("sj_lang") else True


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
