"""A component as a recipe writes it: checked against its class, all defaults written out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from sj_lang import plugins
from sj_lang.component import values
from sj_lang.component.problems import Keys, Problem, merge_misspelt, missing, unknown
from sj_lang.component.schema import (
    DATA_TEXT,
    MISSING,
    Argument,
    Data,
    arguments_of,
    takes_data,
    takes_several,
    with_article,
    with_preset,
)
from sj_lang.errors import PluginError, UserError, choices, nearest
from sj_lang.hf import HUB, wrong_place

#: the parts of a data set, by which a mapping may name its files
SPLITS = ("train", "validation", "dev", "test")


class Spec(dict[str, Any]):
    """`{"type": name, **options}`, checked, with all options: a dict that needs no second check.

    Copies keep the proof. It is void once a value has been changed in place.
    """

    def __init__(self, kind: str, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._proof = kind, repr(self)

    def proves(self, kind: str) -> bool:
        """Whether these are still the options that were checked, for a component of this kind."""
        return self._proof == (kind, repr(self))


def resolve(kind: str, section: Any, keys: Keys = ()) -> tuple[dict[str, Any], list[Problem]]:
    """Check a component's section; return a `Spec`, {} if its class is unknown, and the problems.

    Arguments that the program hands in are not written out, unless a model's section sets them.
    """
    if isinstance(section, str):
        section = {"type": section}
    if not isinstance(section, Mapping):
        text = f"expected {with_article(kind)}: a name, or a mapping with 'type'; found {values.tell(section)}"
        return {}, [Problem(keys, text)]
    if "type" not in section:
        names = [registration.name for registration in plugins.all(kind)]
        problems = [missing((*keys, "type"), f"the name of {with_article(kind)}; {choices('', names)}".rstrip("; "))]
        like_type = [name for name in section if nearest(name, ["type"])]
        return {}, merge_misspelt(problems + [unknown((*keys, name), ["type"]) for name in like_type])
    name = section["type"]
    if not isinstance(name, str):
        return {}, [Problem((*keys, "type"), f"expected the name of {with_article(kind)}, found {values.tell(name)}")]
    try:
        schema = arguments_of(kind, name)
    except UserError as error:
        return {}, [Problem((*keys, "type"), str(error))]
    except PluginError as error:
        return {}, [Problem((*keys, "type"), str(error), "plugin")]
    written = {key: value for key, value in section.items() if key != "type"}
    options, problems = resolve_arguments(schema, written, keys, ["type"])
    return Spec(kind, {"type": name, **options}), problems


def resolve_arguments(
    schema: Mapping[str, Argument], section: Mapping[str, Any], keys: Keys, also: Sequence[str] = (), home: str = ""
) -> tuple[dict[str, Any], list[Problem]]:
    """Check the keys and values of a section; return it with defaults, and its problems.

    also: other valid keys. home: where the valid keys are described.
    """
    problems: list[Problem] = []
    valid = [argument.name for argument in schema.values() if argument.settable] + [*also]
    for name in section:
        if name in schema and schema[name].handed_in and not schema[name].settable:
            problems.append(Problem((*keys, name), "is handed in by the program, a recipe cannot set it"))
        elif name not in valid:
            problems.append(unknown((*keys, name), valid, home))
    options: dict[str, Any] = {}
    for argument in schema.values():
        here = (*keys, argument.name)
        if argument.settable and argument.name in section:
            options[argument.name], wrong = _resolve_value(argument, section[argument.name], here)
            problems += wrong
        elif argument.settable and not argument.handed_in:
            if argument.default is MISSING:
                problems.append(missing(here, argument.describe()))
                continue
            default, wrong = _resolve_default(argument, here)
            problems += wrong
            if values.is_plain(default):
                options[argument.name] = default
    return options, merge_misspelt(problems)


def _resolve_default(argument: Argument, keys: Keys) -> tuple[Any, list[Problem]]:
    if argument.part and argument.default is not None:
        return resolve(argument.part, with_preset(argument.part, argument.default, argument.preset), keys)
    return values.plain(argument.written_default), []


def _resolve_value(argument: Argument, value: Any, keys: Keys) -> tuple[Any, list[Problem]]:
    if argument.part:
        if value is None and type(None) in get_args(argument.annotation):
            return None, []
        if isinstance(value, Mapping) and "type" not in value and argument.default not in (MISSING, None):
            base = argument.default
            value = {**({"type": base} if isinstance(base, str) else base), **value}
        return resolve(argument.part, with_preset(argument.part, value, argument.preset), keys)
    if takes_data(argument.annotation):
        if isinstance(value, list) and takes_several(argument.annotation):
            problems = [problem for place, item in enumerate(value) for problem in _check_place(item, (*keys, place))]
            empty = [] if value else [Problem(keys, f"expected {DATA_TEXT}; found an empty list")]
            return value, problems + empty
        optional = value is None and argument.annotation is not Data
        return value, [] if optional else check_data(value, keys)
    value, wrong = values.check(argument.annotation, value)
    if not wrong and not values.is_finite(value):
        wrong = (), f"expected finite numbers, found {values.tell(value)}"
    return value, [Problem((*keys, *wrong[0]), wrong[1])] if wrong else []


def check_data(data: Any, keys: Keys) -> list[Problem]:
    """Check `task.data`: a source, `hub:owner/name[/config]`, a path, or a mapping of those."""
    if isinstance(data, Mapping):
        problems = [unknown((*keys, name), SPLITS) for name in data if name not in SPLITS]
        for name in SPLITS:
            problems += _check_place(data[name], (*keys, name)) if name in data else []
        return problems if data else [Problem(keys, f"expected {DATA_TEXT}; found an empty mapping")]
    return _check_place(data, keys)


def _check_place(data: Any, keys: Keys) -> list[Problem]:
    if not isinstance(data, str):
        return [Problem(keys, f"expected {DATA_TEXT}; found {values.tell(data)}")]
    if data.startswith(HUB):
        wrong = wrong_place(data, data=True)
        return [Problem(keys, wrong)] if wrong else []
    sources = [source.name for source in plugins.all("source")]
    if data in sources or (data and Path(data).expanduser().exists()):
        return []
    hint = choices(data, sources)
    text = f"'{data}' is not a registered source{' (' + hint + ')' if hint else ''}, does not begin with hub:, "
    text += "and no file or folder has that path"
    try:
        plugins.get("source", data)
    except PluginError as error:
        return [Problem(keys, f"{text}; {error}", "plugin")]
    except UserError:
        return [Problem(keys, text)]
    return []
