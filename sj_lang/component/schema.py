"""The signature of a component is the schema of its section in a recipe.

For a config class of transformers, the schema is the fields that the class itself adds. An argument
that is a component too is annotated `neuron: Part["neuron"]` and written `{type: dsn, n: 1}` or
`dsn`.
"""

import copyreg
import dataclasses
import functools
import inspect
import operator
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from sj_lang import plugins
from sj_lang.component import values
from sj_lang.component.remember import remembered
from sj_lang.errors import PluginError, choices, describe
from sj_lang.hookspecs import KINDS

MISSING: Any = inspect.Parameter.empty

#: Arguments that the program hands in, unless a class says `handed_in: ClassVar[frozenset[str]]`.
#: A recipe may set those of models, and must then agree with the data.
HANDED_IN: Mapping[str, frozenset[str]] = {
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

    As a config field its value goes into JSON: a name, or `{"type": name, **options}`.
    """

    @classmethod
    @functools.cache
    def __class_getitem__(cls, kind: str) -> Any:
        if kind not in KINDS:
            raise TypeError(f'Part["{kind}"]: {choices(kind, KINDS)}')
        return _PartType(f'Part["{kind}"]', (), {"kind": kind})


copyreg.pickle(_PartType, lambda annotation: (operator.getitem, (Part, annotation.kind)))


class Data:
    """What `task.data` holds: a source, `hub:owner/name[/config]`, a path, or these by split.

    `Data | list[Data]` takes several of the first three as well.
    """


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument of a component. part: its kind if it is one itself. handed_in: by the program.

    preset: of a part, by its name: options that the owner sets unless the recipe does.
    """

    name: str
    annotation: Any
    default: Any = MISSING
    part: str = ""
    handed_in: bool = False
    settable: bool = True
    preset: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def describe(self) -> str:
        """What a recipe may write here."""
        if self.part:
            return f"{with_article(self.part)} (a name, or type: and arguments)"
        if takes_data(self.annotation):
            return f"{DATA_TEXT}, or a list of the first three" if takes_several(self.annotation) else DATA_TEXT
        return values.describe(values.simplify(self.annotation))

    @functools.cached_property
    def written_default(self) -> Any:
        """The default as a recipe would write it."""
        default = values.plain(self.default)
        return default if self.part or takes_data(self.annotation) else values.check(self.annotation, default)[0]

    def as_plain(self) -> "Argument":
        """The same to a recipe, without classes of the component's own modules."""
        if not self.settable:
            return dataclasses.replace(self, annotation=Any, default=None)
        special = self.part or takes_data(self.annotation)
        plain = self if special else dataclasses.replace(self, annotation=values.simplify(self.annotation))
        if self.default is MISSING:
            return plain
        plain = dataclasses.replace(plain, default=values.plain(self.default))
        plain.written_default  # noqa: B018  worked out now, and kept with it
        return plain


DATA_TEXT = "a registered source, hub:owner/name[/config], a path, or a mapping of train, validation, dev, test"


def with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


#: Keys of a section that the program reads itself, and the class does not get.
OURS: Mapping[str, Mapping[str, Argument]] = {"model": {"init_from": Argument("init_from", str | None, None)}}


def arguments_of(kind: str, name: str) -> dict[str, Argument]:
    """The arguments of the component of that name, as a recipe needs them, `OURS` among them."""
    offer = plugins.get(kind, name)

    key = ("arguments", kind, name, offer.target, offer.plugin, offer.version, offer.missing)
    return remembered(key, lambda: _as_plain(kind, offer.load()))


@functools.cache
def _as_plain(kind: str, target: Any) -> dict[str, Argument]:
    schema = {**arguments(kind, target), **OURS.get(kind, {})}
    return {name: argument.as_plain() for name, argument in schema.items()}


@functools.cache
def arguments(kind: str, target: Any) -> dict[str, Argument]:
    """The arguments of a component class. PluginError if its signature cannot serve as a schema."""
    if not hasattr(target, "handed_in") and isinstance(getattr(target, "given", None), frozenset | set | tuple | list):
        raise PluginError(f"{kind} {target.__qualname__}: the class attribute `given` is now called `handed_in`")
    names = frozenset(getattr(target, "handed_in", HANDED_IN[kind]))
    presets: Mapping[str, Any] = getattr(target, "presets", {})
    schema: dict[str, Argument] = {}
    for name, (annotation, default) in _signature(kind, target).items():
        if name == "type":
            raise PluginError(
                f"{kind} {target.__qualname__}: an argument cannot be called 'type', recipes need that word"
            )
        part, handed_in = _part_of(annotation), name in names
        can_be_written = bool(part) or takes_data(annotation) or values.can_be_written(annotation)
        if not can_be_written and default is MISSING and not handed_in:
            raise PluginError(
                f"{kind} {target.__qualname__}: argument '{name}' has no default, and no recipe can hold its type "
                f"({annotation}); add it to the class attribute `handed_in` or annotate it with a plain type"
            )
        settable = can_be_written and (kind == "model" or not handed_in)
        schema[name] = Argument(name, annotation, default, part, handed_in, settable, presets.get(name, {}))
    return schema


def with_preset(kind: str, part: Any, preset: Mapping[str, Mapping[str, Any]]) -> Any:
    """A component's name or section, with its owner's options that the section does not set.

    A component that it wraps gets its own.
    """
    section = {"type": part} if isinstance(part, str) else part
    if not (preset and isinstance(section, Mapping)):
        return part
    name = str(section.get("type"))
    wraps = next((one.wraps for one in plugins.all(kind) if one.name == name), "")
    ours = {option: value for option, value in preset.get(name, {}).items() if option not in section}
    if wraps in section and (inside := with_preset(kind, section[wraps], preset)) is not section[wraps]:
        ours[wraps] = inside
    return {**section, **ours} if ours else part


def _signature(kind: str, target: Any) -> dict[str, tuple[Any, Any]]:
    """name -> (annotation, default). `**rest` stands for the arguments of the base class."""
    if dataclasses.is_dataclass(target) and kind == "model":
        return _config_fields(target)
    merged: dict[str, tuple[Any, Any]] = {}
    refusal = ""
    for constructor in (target, *_bases(target)):
        try:
            parameters = inspect.signature(constructor).parameters
        except (TypeError, ValueError) as error:
            raise PluginError(f"{kind} {target!r} has no signature to read: {describe(error)}") from error
        function = inspect.unwrap(constructor.__init__) if inspect.isclass(constructor) else constructor
        unresolved = {name: p.annotation for name, p in parameters.items() if p.annotation is not MISSING}
        annotations = values.hints(function, unresolved, KINDS)
        named = {name: p for name, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        merged |= {n: (annotations.get(n, Any), p.default) for n, p in named.items() if n not in merged}
        others = [p for p in parameters.values() if p.name not in named]
        if not others:
            return merged
        whose = "its constructor" if constructor is target else f"the constructor of its base {constructor.__name__}"
        refusal = refusal or f"{whose} takes {_written(others[0])}"
        if others[0].kind is not others[0].VAR_KEYWORD:
            break
    raise PluginError(
        f"{kind} {target.__qualname__}: {refusal}, so the keys of a recipe cannot be checked; "
        "name every argument, keyword-only"
    )


def _bases(target: Any) -> list[Any]:
    """The bases of a class that have a constructor of their own, nearest first."""
    owners = [owner for owner in target.__mro__ if "__init__" in vars(owner)] if inspect.isclass(target) else []
    return owners[1:-1]  # the first is the target's own, the last is object's


def _written(parameter: inspect.Parameter) -> str:
    return {"VAR_KEYWORD": "**", "VAR_POSITIONAL": "*"}.get(parameter.kind.name, "positional ") + parameter.name


def _config_fields(target: Any) -> dict[str, tuple[Any, Any]]:
    owners = [owner for owner in reversed(target.__mro__) if owner.__module__.split(".")[0] not in _FOREIGN]
    annotations: dict[str, Any] = {}
    for owner in owners:
        annotations |= values.hints(owner, inspect.get_annotations(owner), KINDS)
    return {
        entry.name: (annotations[entry.name], field_default(entry))
        for entry in dataclasses.fields(target)
        if entry.name in annotations and entry.init
    }


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


def takes_data(annotation: Any) -> bool:
    """Whether it is annotated as `Data`, alone or among others."""
    return annotation is Data or Data in get_args(annotation)


def takes_several(annotation: Any) -> bool:
    """Whether it takes a list of data as well."""
    return list[Data] in get_args(annotation)
