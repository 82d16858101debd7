"""Annotations as checks of values from YAML: strict, with messages for a user of recipes.

A whole number is a number; true and false are neither numbers nor text; text is never a number.
"""

import collections.abc
import enum
import functools
import inspect
import math
import operator
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from sj_lang.errors import choices

_SCALARS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
#: A finite number beyond it becomes infinite in a model, or an error of torch.
_FLOAT32 = "a number that float32 can hold"
_FLOAT32_MAX = 3.4028234663852886e38
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class _NotYaml:
    """Stands for a type that no YAML value has, such as a module or a function."""


def simplify(annotation: Any) -> Any:
    """Reduce an annotation to what YAML can hold; `_NotYaml` if nothing remains.

    Classes and functions are dropped from unions; an enumeration becomes the choice of its values,
    and plain text beside it is dropped; paths are text.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation in _SCALARS or origin is Literal:
        return annotation
    if annotation in (None, types.NoneType):
        return None
    if annotation is object:
        return Any
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return Literal[tuple(member.value for member in annotation)]
    if inspect.isclass(annotation) and issubclass(annotation, Path):
        return str
    if origin is Annotated:
        base = simplify(inner[0])
        return base if base is _NotYaml else Annotated[(base, *inner[1:])]
    if origin in (Union, types.UnionType):
        return _simplify_union(inner)
    if annotation in _LISTS:
        return list[Any]
    if annotation in _MAPPINGS:
        return dict[str, Any]
    if origin in (*_LISTS, *_MAPPINGS):
        inside = [... if argument is ... else simplify(argument) for argument in inner]
        if _NotYaml in inside:
            return _NotYaml
        if origin is tuple:
            return tuple[tuple(inside)]  # type: ignore[misc]
        if origin in _MAPPINGS:
            return dict[tuple(inside)]  # type: ignore[misc]
        return list[inside[0]]  # type: ignore[valid-type]
    return _NotYaml


def _simplify_union(members: tuple[Any, ...]) -> Any:
    has_enum = any(inspect.isclass(member) and issubclass(member, enum.Enum) for member in members)
    kept = [simplify(member) for member in members if not (has_enum and member is str)]
    kept = [member for member in kept if member is not _NotYaml]
    return functools.reduce(operator.or_, kept) if any(member is not None for member in kept) else _NotYaml


def can_be_written(annotation: Any) -> bool:
    """Whether a recipe can hold a value of this type."""
    return simplify(annotation) is not _NotYaml


def check(annotation: Any, value: Any) -> tuple[Any, tuple[tuple[str | int, ...], str] | None]:
    """Check a value: return it as plain data, and (place inside it, message) if it is wrong."""
    from pydantic import ValidationError

    simple = simplify(annotation)
    try:
        return plain(_adapter(simple).validate_python(value)), None
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    inside: tuple[str | int, ...] = ()
    culprit, text = value, ""
    for detail in details if len(details) == 1 else []:
        inside, culprit = _walk(value, detail["loc"])
        text = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ") if inside else ""
    names = {"string": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false"}
    too_large = any(detail["msg"].endswith(_FLOAT32) for detail in details)
    expected = _FLOAT32 if too_large else names.get(text, text) if inside else describe(simple)
    hint = choices(culprit, _options(simple), limit=0) if isinstance(culprit, str) and not inside else ""
    return value, (inside, f"expected {expected}, found {tell(culprit)}{'; ' + hint if hint else ''}")


def plain(value: Any) -> Any:
    """Tuples to lists, enumerations to their values, paths to text, at any depth."""
    if isinstance(value, collections.abc.Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def is_plain(value: Any) -> bool:
    """Whether a value can be written to YAML and read back."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def is_finite(value: Any) -> bool:
    """Whether no number in plain data is nan or infinite, which JSON cannot hold."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not (isinstance(value, float) and not math.isfinite(value)) and all(map(is_finite, inner))


def describe(annotation: Any) -> str:
    """An annotation in words: `int | None` -> "a whole number or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (None, types.NoneType):
        return "null"
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin is Literal:
        few = [tell_plainly(option) for option in inner[:10]]
        return f"one of {', '.join(few)}" + (" ..." if len(inner) > 10 else "") if len(inner) > 3 else " or ".join(few)
    if origin is Annotated:
        # a pydantic Field holds its constraints in a list
        parts = [part for item in inner[1:] for part in getattr(item, "metadata", [item])]
        limits = [f"{sign} {getattr(p, name)}" for p in parts for name, sign in _LIMITS.items() if hasattr(p, name)]
        text = f"{describe(inner[0])} {' and '.join(limits)}".rstrip()
        finite = any(getattr(part, "allow_inf_nan", None) is False for part in parts)
        return text.replace("a number", "a finite number") if finite else text
    if origin in (Union, types.UnionType):
        wider = [member for member in inner if member is not int or float not in inner]
        return " or ".join(dict.fromkeys(describe(member) for member in wider))
    if origin is tuple and inner[-1:] != (...,):
        return "a list of " + ", ".join(describe(member) for member in inner)
    if origin in (list, tuple):
        return "a list" if inner[0] is Any else f"a list, each item {describe(inner[0])}"
    return "a mapping" if origin is dict else "a value"


def tell_plainly(value: Any) -> str:
    """A value as YAML writes it; text in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, list | dict):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return repr(value)


def tell(value: Any) -> str:
    """A value and what it is, for "found ..."."""
    if isinstance(value, bool) or value is None:
        return tell_plainly(value)
    nouns = [(str, "text"), (int, "a whole number"), (float, "a number"), (list, "a list"), (dict, "a mapping")]
    noun = next((noun for kind, noun in nouns if isinstance(value, kind)), f"an object of {type(value).__name__}")
    return f"{tell_plainly(value)} ({noun})"


def _options(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if isinstance(option, str)]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [option for member in get_args(annotation) for option in _options(member)]
    return []


def _walk(value: Any, location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Any]:
    inside: list[str | int] = []
    for key in location:
        inner = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        if key in inner:  # else pydantic's name for a member of a union, or a missing item
            value = inner[key]
            inside.append(key)
    return tuple(inside), value


_adapters: dict[str, Any] = {}


def _adapter(annotation: Any) -> Any:
    """Pydantic's check of an annotation, kept by its text, as some annotations have no hash."""
    from pydantic import ConfigDict, TypeAdapter

    text = repr(annotation)
    if text not in _adapters:
        _adapters[text] = TypeAdapter(_strict(annotation), config=ConfigDict(allow_inf_nan=True))
    return _adapters[text]


def _in_float32(value: float) -> float:
    if math.isfinite(value) and abs(value) > _FLOAT32_MAX:
        raise ValueError(_FLOAT32)
    return value


def _strict(annotation: Any) -> Any:
    from pydantic import AfterValidator, BeforeValidator, Strict

    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is float:
        return Annotated[float, Strict(), AfterValidator(_in_float32)]
    if annotation in _SCALARS:
        return Annotated[annotation, Strict()]
    if origin is Literal:
        exact = {(type(option), option) for option in inner}

        def same_type(value: Any) -> Any:
            if isinstance(value, collections.abc.Hashable) and (type(value), value) in exact:
                return value
            raise ValueError("not one of the choices")

        return Annotated[annotation, BeforeValidator(same_type)]
    if origin is Annotated:
        return Annotated[(_strict(inner[0]), *inner[1:])]
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, (_strict(member) for member in inner))
    if origin in (list, dict, tuple):
        return origin[tuple(... if member is ... else _strict(member) for member in inner)]
    return annotation


def hints(owner: Any, annotations: typing.Mapping[str, Any], words: typing.Iterable[str] = ()) -> dict[str, Any]:
    """Resolve annotations in the module of their owner; those that cannot be resolved stay text.

    words: names that stand for themselves if the module does not define them: linters unquote them.
    """
    scope = {word: word for word in words} | vars(inspect.getmodule(owner) or types)
    resolved: dict[str, Any] = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved[name] = typing.get_type_hints(holder, scope, include_extras=True)[name]
        except (NameError, AttributeError, TypeError, SyntaxError):
            resolved[name] = annotation
    return resolved
