"""Docstrings of this repository as reStructuredText, for the API reference.

A docstring here is plain text: single backticks around code, equations indented by four, and a line
`name: meaning` for each argument or field.
"""

import re
from typing import Any

_NAME = r"(?:\\\*){0,2}[A-Za-z_][\w.]*"
_FIELD = re.compile(rf"({_NAME}(?:, {_NAME})*): (.*)")
_ITEM = re.compile(r"\\(\* )|(\d+\. )")


def prose(text: str) -> str:
    """Double the backticks; outside them, escape what has a meaning in reStructuredText alone."""
    code = iter(f"`{match}`" for match in re.findall(r"`[^`]+`", text))
    plain = [re.sub(r"([*|\\`]|_(?!\w))", r"\\\1", part) for part in re.split(r"`[^`]+`", text)]
    return "".join(part + next(code, "") for part in plain)


def paragraph(text: str) -> list[str]:
    """The lines of one paragraph: of an equation, of fields, or of prose with or without a list."""
    if text.startswith("    "):
        return ["::", "", *[f"    {line}" for line in text.split("\n")]]
    lines = prose(text).split("\n")
    result: list[str] = []
    if _FIELD.fullmatch(lines[0]):
        for line in lines:
            field = _FIELD.fullmatch(line)
            result.append(f"* **{field[1]}**: {field[2]}" if field else f"  {line.strip()}")
        return result
    for line in lines:
        item = _ITEM.match(line)
        result += ["", (item[1] or item[2]) + line[item.end() :]] if item else [line]
    return result


def convert(text: str) -> list[str]:
    """A docstring without its indentation -> lines of reStructuredText."""
    parts = [part for part in re.split(r"\n\s*\n", text.strip("\n")) if part]
    return [line for part in parts for line in (*paragraph(part), "")]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert("\n".join(lines))


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """What other packages have documented, such as a function of SpikingJelly, is left out."""
    return None if getattr(obj, "__module__", None) is None or obj.__module__.startswith("sj_lang") else True


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
