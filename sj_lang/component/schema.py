"""The signature of a component is the schema of its section in a recipe.

Keyword-only constructors are read as they are; a config class of transformers by the fields that it adds itself.
An argument that is a component too is annotated `neuron: Part["neuron"]` and written `{type: dsn, n: 1}` or `dsn`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin

from sj_lang import plugins
from sj_lang.component import values
from sj_lang.component.problems import Keys, Problem, merge_misspelt, missing, unknown
from sj_lang.errors import PluginError, UserError, choices, describe, nearest
from sj_lang.hookspecs import KINDS

MISSING: Any = inspect.Parameter.empty
HUB = "hub:"
PARTS_OF_DATA = ("train", "validation", "dev", "test")

#: Arguments that the program hands in. A class says otherwise with `given: ClassVar[frozenset[str]]`.
#: For models they may be written in a recipe as well, and must then agree with the data.
GIVEN: Mapping[str, frozenset[str]] = {
    "neuron": frozenset({"channels", "step_mode", "device", "dtype"}),
    "embedding": frozenset(
        {"vocab_size", "dim", "max_length", "type_vocab_size", "pad_token_id", "neuron", "norm", "dropout", "eps"}
        | {"device", "dtype"}
    ),
    "attention": frozenset({"dim", "heads", "neuron", "norm", "max_length", "bias", "dropout", "device", "dtype"}),
    "norm": frozenset({"dim", "device", "dtype"}),
    "model": frozenset(
        {"vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels"}
        | {"pad_token_id", "bos_token_id", "eos_token_id"}
    ),
    "task": frozenset(),
    "tokenizer": frozenset({"texts", "checkpoint"}),
    "source": frozenset(),
}


class _PartType(type):
    kind: str

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, str | Mapping)


class Part:
    """`Part["neuron"]`: the annotation of an argument that is itself a component.

    As a config field its value is a name or a plain dict `{"type": name, **options}`, which goes into JSON.
    """

    _made: ClassVar[dict[str, _PartType]] = {}

    def __class_getitem__(cls, kind: str) -> Any:
        if kind not in KINDS:
            raise TypeError(f'Part["{kind}"]: {choices(kind, KINDS)}')
        if kind not in cls._made:
            cls._made[kind] = _PartType(f'Part["{kind}"]', (), {"kind": kind})
        return cls._made[kind]


class Data:
    """The annotation of `task.data`: a source's name, `hub:owner/name[/config]`, a path, or a mapping of splits.

    `Data | list[Data]` takes several of the first three as well.
    """


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a component. part: the kind if it is a component itself; given: handed in by the program."""

    name: str
    annotation: Any
    default: Any = MISSING
    part: str = ""
    given: bool = False
    settable: bool = True

    def describe(self) -> str:
        """What a recipe may write here."""
        if self.part:
            return f"{_article(self.part)} (a name, or type: and arguments)"
        if _takes_data(self.annotation):
            return f"{_DATA_TEXT}, or a list of the first three" if _takes_several(self.annotation) else _DATA_TEXT
        return values.describe(values.simplify(self.annotation))


_DATA_TEXT = "a registered source, hub:owner/name[/config], a path, or a mapping of train, validation, dev, test"


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


#: Keys of a section that the program reads itself, and the class does not get.
OURS: Mapping[str, Mapping[str, Argument]] = {"model": {"init_from": Argument("init_from", str | None, None)}}


@functools.cache
def arguments(kind: str, target: Any) -> dict[str, Argument]:
    """The arguments of a component class, by name. PluginError if its signature cannot serve as a schema."""
    given = frozenset(getattr(target, "given", GIVEN[kind]))
    found: dict[str, Argument] = {}
    for name, (annotation, default) in _signature(kind, target).items():
        if name == "type":
            raise PluginError(
                f"{kind} {target.__qualname__}: an argument cannot be called 'type', recipes need that word"
            )
        part = _part_of(annotation)
        settable = bool(part) or _takes_data(annotation) or values.can_be_written(annotation)
        is_given = name in given
        if not settable and default is MISSING and not is_given:
            raise PluginError(
                f"{kind} {target.__qualname__}: argument '{name}' has no default, and no recipe can hold its type "
                f"({annotation}); add it to the class attribute `given` or annotate it with a plain type"
            )
        found[name] = Argument(
            name, annotation, default, part, is_given, settable and (kind == "model" or not is_given)
        )
    return found


def _signature(kind: str, target: Any) -> dict[str, tuple[Any, Any]]:
    """name -> (annotation, default)."""
    if dataclasses.is_dataclass(target) and kind == "model":
        return _config_fields(target)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise PluginError(f"{kind} {target!r} has no signature to read: {describe(error)}") from error
    function = inspect.unwrap(target.__init__) if inspect.isclass(target) else target
    written = {name: p.annotation for name, p in parameters.items() if p.annotation is not inspect.Parameter.empty}
    annotations = values.hints(function, written, KINDS)
    found: dict[str, tuple[Any, Any]] = {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            stars = {"VAR_KEYWORD": "**", "VAR_POSITIONAL": "*"}.get(parameter.kind.name, "positional ")
            raise PluginError(
                f"{kind} {target.__qualname__}: its constructor takes {stars}{name}, so the keys of a recipe cannot be "
                "checked; name every argument, keyword-only"
            )
        found[name] = annotations.get(name, Any), parameter.default
    return found


def _config_fields(target: Any) -> dict[str, tuple[Any, Any]]:
    owners = [owner for owner in reversed(target.__mro__) if owner.__module__.split(".")[0] not in _FOREIGN]
    annotations: dict[str, Any] = {}
    for owner in owners:
        annotations |= values.hints(owner, inspect.get_annotations(owner), KINDS)
    found: dict[str, tuple[Any, Any]] = {}
    for entry in dataclasses.fields(target):
        if entry.name in annotations and entry.init:
            found[entry.name] = annotations[entry.name], field_default(entry)
    return found


def field_default(entry: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass field, `MISSING` if it has none."""
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return MISSING if entry.default is dataclasses.MISSING else entry.default


_FOREIGN = frozenset({"builtins", "transformers", "huggingface_hub", "typing", "abc"})


def _part_of(annotation: Any) -> str:
    if isinstance(annotation, _PartType):
        return annotation.kind
    inner = get_args(annotation) if get_origin(annotation) is not None else ()
    return next((member.kind for member in inner if isinstance(member, _PartType)), "")


def _takes_data(annotation: Any) -> bool:
    return annotation is Data or Data in get_args(annotation)


def _takes_several(annotation: Any) -> bool:
    return list[Data] in get_args(annotation)


def resolve(kind: str, spec: Any, keys: Keys = ()) -> tuple[dict[str, Any], list[Problem]]:
    """Check a component's section; return it with all defaults written out, and all that is wrong with it.

    Arguments that the program hands in are not written out, except those of a model that the section sets.
    """
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, Mapping):
        problem = Problem(
            keys, f"expected {_article(kind)}: a name, or a mapping with 'type'; found {values.tell(spec)}"
        )
        return {}, [problem]
    names = [registration.name for registration in plugins.all(kind)]
    if "type" not in spec:
        problems = [missing((*keys, "type"), f"the name of {_article(kind)}; {choices('', names)}".rstrip("; "))]
        like_type = [name for name in spec if nearest(name, ["type"])]
        return {}, merge_misspelt(problems + [unknown((*keys, name), ["type"]) for name in like_type])
    name = spec["type"]
    if not isinstance(name, str):
        return {}, [Problem((*keys, "type"), f"expected the name of {_article(kind)}, found {values.tell(name)}")]
    try:
        known = {**arguments(kind, plugins.get(kind, name).load()), **OURS.get(kind, {})}
    except UserError as error:
        return {}, [Problem((*keys, "type"), str(error))]
    except PluginError as error:
        return {}, [Problem((*keys, "type"), str(error), "plugin")]
    options, problems = resolve_arguments(known, {k: v for k, v in spec.items() if k != "type"}, keys, ["type"])
    return {"type": name, **options}, problems


def resolve_arguments(
    known: Mapping[str, Argument],
    section: Mapping[str, Any],
    keys: Keys,
    also: Sequence[str] = (),
    home: str = "",
) -> tuple[dict[str, Any], list[Problem]]:
    """Check the keys and values of one section; return it with defaults, and its problems.

    also: other valid keys. home: where the valid keys are described.
    """
    problems: list[Problem] = []
    valid = [argument.name for argument in known.values() if argument.settable] + [*also]
    for name in section:
        if name in known and known[name].given and not known[name].settable:
            problems.append(Problem((*keys, name), "is handed in by the program, a recipe cannot set it"))
        elif name not in valid:
            problems.append(unknown((*keys, name), valid, home))
    options: dict[str, Any] = {}
    for argument in known.values():
        if argument.name in section and argument.settable:
            options[argument.name], found = _resolve_value(argument, section[argument.name], (*keys, argument.name))
            problems += found
        elif argument.default is MISSING and argument.settable and not argument.given:
            problems.append(missing((*keys, argument.name), argument.describe()))
        elif argument.settable and not argument.given and argument.default is not MISSING:
            default, found = _resolve_default(argument, (*keys, argument.name))
            problems += found
            if values.is_plain(default):
                options[argument.name] = default
    return options, merge_misspelt(problems)


def _resolve_default(argument: Argument, keys: Keys) -> tuple[Any, list[Problem]]:
    if argument.part and argument.default is not None:
        return resolve(argument.part, argument.default, keys)
    default = values.plain(argument.default)
    if not _takes_data(argument.annotation) and not argument.part:
        default, _ = values.check(argument.annotation, default)
    return default, []


def _resolve_value(argument: Argument, value: Any, keys: Keys) -> tuple[Any, list[Problem]]:
    if argument.part:
        if value is None and type(None) in get_args(argument.annotation):
            return None, []
        if isinstance(value, Mapping) and "type" not in value and argument.default not in (MISSING, None):
            base = argument.default
            value = {**({"type": base} if isinstance(base, str) else base), **value}
        return resolve(argument.part, value, keys)
    if _takes_data(argument.annotation):
        optional = value is None and argument.annotation is not Data
        if isinstance(value, list) and _takes_several(argument.annotation):
            found = [problem for place, item in enumerate(value) for problem in _check_place(item, (*keys, place))]
            return value, found or ([] if value else [Problem(keys, f"expected {_DATA_TEXT}; found an empty list")])
        return value, [] if optional else check_data(value, keys)
    value, wrong = values.check(argument.annotation, value)
    return value, [Problem((*keys, *wrong[0]), wrong[1])] if wrong else []


def check_data(data: Any, keys: Keys) -> list[Problem]:
    """Check `task.data`: a registered source, `hub:owner/name[/config]`, an existing path, or a mapping of those."""
    if isinstance(data, Mapping):
        wrong = [unknown((*keys, name), PARTS_OF_DATA) for name in data if name not in PARTS_OF_DATA]
        inner = [p for name, item in data.items() if name in PARTS_OF_DATA for p in _check_place(item, (*keys, name))]
        return wrong + inner or ([] if data else [Problem(keys, f"expected {_DATA_TEXT}; found an empty mapping")])
    return _check_place(data, keys)


def _check_place(data: Any, keys: Keys) -> list[Problem]:
    if not isinstance(data, str):
        return [Problem(keys, f"expected {_DATA_TEXT}; found {values.tell(data)}")]
    if data.startswith(HUB):
        parts = data.removeprefix(HUB).split("/")
        sound = len(parts) in (2, 3) and all(parts)
        return [] if sound else [Problem(keys, f"expected hub:owner/name[/config], found '{data}'")]
    sources = [source.name for source in plugins.all("source")]
    if data in sources or (data and Path(data).expanduser().exists()):
        return []
    try:
        plugins.get("source", data)
    except PluginError as error:
        return [Problem(keys, str(error), "plugin")]
    except UserError:
        hint = choices(data, sources)
        text = f"'{data}' is no registered source{' (' + hint + ')' if hint else ''}, does not begin with hub:, "
        return [Problem(keys, f"{text}and no file or folder has that path")]
    return []
