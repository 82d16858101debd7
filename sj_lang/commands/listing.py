"""Prints what `sj-lang ls` and `sj-lang plugins` list; only `--arguments` imports torch."""

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sj_lang import plugins
from sj_lang.errors import UserError
from sj_lang.hookspecs import FLAGS, KINDS, Registration


def width() -> int:
    """Columns of what commands print: COLUMNS, else those of the terminal, else 118."""
    return shutil.get_terminal_size((118, 0)).columns


def recipes(*, as_json: bool = False) -> str:
    """The installed recipes with their summaries, and what keeps others from being shown."""
    rows = [(name, _summary(path)) for name, path in plugins.recipes().items()]
    if as_json:
        files = plugins.recipes()
        return json.dumps(
            [{"name": name, "summary": text, "file": str(files[name])} for name, text in rows],
            indent=2,
            ensure_ascii=False,
        )
    lines = _columns([("RECIPE", "SUMMARY"), *rows]) if rows else ["no recipe is installed"]
    trouble = [f"{plugin} failed to load; see `sj-lang plugins`" for plugin in plugins.registry().broken()]
    trouble += [text for (kind, _), text in plugins.registry().clashes().items() if kind == "recipe"]
    return "\n".join(lines + ([""] if trouble else []) + trouble)


def _summary(path: Path) -> str:
    from sj_lang.component import yaml_marks

    try:
        return str(yaml_marks.read(path).data.get("summary", ""))
    except UserError as error:
        return f"cannot be read: {error}"


def plugin_table(what: str = "", *, as_json: bool = False, with_arguments: bool = False) -> str:
    """All components, those of one kind, or one of them ("neuron/dsn"), and broken plugins."""
    kind, _, name = what.partition("/")
    if what and not name and kind not in KINDS:
        kind, name = _of_any_kind(what)
    if kind:
        plugins.all(kind)  # refuses an unknown kind
    if with_arguments and not name:
        raise UserError("--arguments needs KIND/NAME, such as neuron/dsn")
    if name:
        return _one(plugins.get(kind, name), as_json, with_arguments)
    table = plugins.table()
    table["components"] = {key: rows for key, rows in table["components"].items() if kind in ("", key)}
    if as_json:
        return json.dumps(table, indent=2)
    lines: list[str] = []
    for key in KINDS:
        rows = table["components"].get(key)
        if rows:
            lines += ["", key.upper(), *(_neurons(rows) if key == "neuron" else _others(rows))]
        elif kind == key:
            lines += ["", f"no {kind} is installed"]
    states = [f"BROKEN: {plugin['error']}" if plugin["error"] else "works" for plugin in table["plugins"]]
    cells = [[p["name"], p["distribution"], p["version"], s] for p, s in zip(table["plugins"], states, strict=True)]
    lines += ["", "PLUGINS", *_columns(cells)]
    if table["clashes"]:
        lines += ["", "OFFERED TWICE: neither can be used", *(f"  {text}" for text in table["clashes"])]
    return "\n".join(lines[1:])


def _of_any_kind(name: str) -> tuple[str, str]:
    """Kind and name of the only component of this name; if there is none, the name as a kind."""
    kinds = [kind for kind in KINDS if any(registration.name == name for registration in plugins.all(kind))]
    if len(kinds) > 1:
        raise UserError(f"several components are called '{name}': {', '.join(f'{kind}/{name}' for kind in kinds)}")
    return (kinds[0], name) if kinds else (name, "")


def _neurons(rows: list[dict[str, Any]]) -> list[str]:
    head = ("name", "modes", "causal", "state", "mask", "any length", "parameters per channel")
    body = []
    for row in rows:
        for condition, flags in [("", {}), *row["variants"].items()]:
            name = f"  {condition}" if condition else row["name"]
            words = _traits({**row["traits"], **flags})
            if row["wraps"]:  # it can what the neuron inside can
                words = tuple(word if word == "no" else "inner" for word in words)
            body.append((name, *words, row["traits"]["parameters_per_channel"]))
    return [*_columns([head, *body]), "", *_others(rows)]


def _traits(traits: dict[str, Any]) -> tuple[str, ...]:
    words = ["yes" if traits[flag] else "no" for flag in ("causal", "carries_state", "takes_mask", "any_length")]
    return ("s, m" if traits["steps"] else "m", *words)


def _others(rows: list[dict[str, Any]]) -> list[str]:
    missing = [f" (not here: {row['missing']})" if row["missing"] else "" for row in rows]
    return _columns([(r["name"], _owner(r), r["summary"] + text) for r, text in zip(rows, missing, strict=True)])


def _owner(row: dict[str, Any]) -> str:
    return f"{row['plugin']} {row['version']}"


def _one(registration: Registration, as_json: bool, with_arguments: bool) -> str:
    shown: dict[str, Any] = {"kind": registration.kind, **plugins.row(registration)}
    if with_arguments:
        shown["arguments"] = _arguments(registration)
    if as_json:
        return json.dumps(shown, indent=2)
    lines = [f"{registration.kind} {registration.name}: {registration.summary}"]
    facts = {"cite": registration.cite, "from": _owner(shown), "target": registration.target}
    facts |= {"not here": registration.missing} if registration.missing else {}
    if registration.kind == "neuron":
        able = f"as the neuron in `{registration.wraps}`" if registration.wraps else "yes"
        facts["modes"] = "single-step and multi-step" if registration.traits["steps"] else "multi-step"
        if registration.wraps and registration.traits["steps"]:
            facts["modes"] = able
        flags = [flag for flag in FLAGS if flag != "steps"]
        facts |= {flag.replace("_", " "): able if registration.traits[flag] else "no" for flag in flags}
        facts["parameters per channel"] = str(registration.traits["parameters_per_channel"])
    elif registration.traits:
        facts["causal"] = "yes" if registration.traits["causal"] else "no"
    for condition, changed in registration.variants.items():
        words = [f"{flag.replace('_', ' ')}: {'yes' if changed[flag] else 'no'}" for flag in FLAGS if flag in changed]
        facts[f"with {condition}"] = ", ".join(words)
    lines += _columns([(f"{key}:", text) for key, text in facts.items() if text])
    if with_arguments:
        lines += ["", "arguments (type; default)"]
        lines += _columns([(a["name"], a["type"], f"default {a['default']}") for a in shown["arguments"]])
    return "\n".join(lines)


def _arguments(registration: Registration) -> list[dict[str, str]]:
    from sj_lang.component import schema, values

    rows = []
    for argument in schema.arguments_of(registration.kind, registration.name).values():
        if argument.settable:
            required = argument.default is schema.MISSING
            default = "none, must be set" if required else values.tell_plainly(values.plain(argument.default))
            rows.append({"name": argument.name, "type": argument.describe(), "default": default})
    return rows


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align cells; the last column is wrapped if it does not fit."""
    rows = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    columns, lines = width(), []
    for row in rows:
        start = "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        inner, most = " " * len(start), max(columns, len(start) + 30)
        lines += textwrap.wrap(row[-1], most, initial_indent=start, subsequent_indent=inner) or [start.rstrip()]
    return lines
