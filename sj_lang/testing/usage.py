"""What `check_node` is called with: a mistake is one error, before any check runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn

from sj_lang.errors import choices
from sj_lang.testing.check import CHECKS
from sj_lang.testing.subject import Subject

T = TypeVar("T")

NEEDED = ("functional", "init_state", "levels", "step_mode", "reset", "detach", "named_memories")
METHODS = {"functional", "init_state"}  # a class has them before it is built


def assert_makes_nodes(make: Any, channels: int) -> None:
    """`make(channels=C)` builds a fresh node of sj_lang's kind, of C channels."""
    if isinstance(make, nn.Module):
        name = type(make).__name__
        raise TypeError(f"make is a {name} that is built already: hand in the class, or a function, that builds one")
    if not callable(make):
        raise TypeError(f"make is a {type(make).__name__}: hand in the class, or a function, that builds the node")
    if inspect.isclass(make) and not all(hasattr(make, name) for name in METHODS):
        _assert_complete(make, make.__name__)
    try:
        inspect.signature(make).bind(channels=channels)
    except TypeError as error:
        raise TypeError(
            f"make cannot be called as make(channels={channels}): {error}; "
            "hand in a function of the channels, such as lambda channels: MyNode(channels=channels)"
        ) from error
    with torch.random.fork_rng(devices=[]):
        node = make(channels=channels)
        again = None if inspect.isclass(make) else make(channels=channels)
    if not isinstance(node, nn.Module):
        raise TypeError(f"make(channels={channels}) returns a {type(node).__name__}, not a node")
    _assert_complete(node, type(node).__name__)
    if node is again:
        raise ValueError(f"make(channels={channels}) returns the same node twice: build a fresh one at each call")
    if getattr(node, "channels", None) not in (None, channels):
        raise ValueError(
            f"make(channels={channels}) returns a node of {node.channels} channels: hand the number on, or ask for "
            f"nodes of that width, channels={node.channels}"
        )


def _assert_complete(candidate: Any, name: str) -> None:
    missing = [needed for needed in NEEDED if not hasattr(candidate, needed)]
    if missing:
        raise TypeError(
            f"{name} is not a neuron as sj_lang needs it: it has no {', '.join(missing)}; "
            "sj_lang.neuron.Node is the base class that brings them, see docs/plugins.md"
        )


def listed(what: str, values: Iterable[T]) -> list[T]:
    """The values of an argument that is a list; a single name or dtype is refused."""
    if isinstance(values, str | torch.dtype):
        raise TypeError(f"{what}: expected a list, such as {what}=[{values!r}]")
    return list(values)


def precisions(dtypes: Iterable[torch.dtype]) -> list[torch.dtype]:
    """The dtypes, each one that the checks can be run in."""
    values = listed("dtypes", dtypes)
    for dtype in values:
        if dtype not in (torch.float64, torch.float32):
            kind = ValueError if isinstance(dtype, torch.dtype) else TypeError
            raise kind(f"dtypes: {dtype!r} is neither torch.float64 nor torch.float32")
    return _some("dtypes", values)


def backends(names: Iterable[str | None]) -> list[str | None]:
    """The backends, one at least."""
    return _some("backends", listed("backends", names))


def selection(only: Iterable[str], skip: Mapping[str, str] | None) -> tuple[list[str], dict[str, str]]:
    """The checks to run, none if all are, and the checks to skip with the reasons."""
    if skip is not None and not isinstance(skip, Mapping):
        raise TypeError(
            f"skip: a mapping of each check to the reason, such as {{'compiles': 'why'}}, got a {type(skip).__name__}"
        )
    selected, skipped = listed("only", only), dict(skip or {})
    for name in [*skipped, *selected]:
        if name not in CHECKS:
            raise TypeError(f"no check {name!r}; {choices(str(name), list(CHECKS), limit=99)}")
    return selected, skipped


def assert_known(options: Iterable[str]) -> None:
    """What is handed on to `Subject` is a field of it that `check_node` does not set itself."""
    names = [field.name for field in fields(Subject) if field.name not in ("make", "traits", "backend", "dtype")]
    for name in options:
        if name not in names:
            every = [*names, "backends", "dtypes", "only", "skip"]
            raise TypeError(f"check_node has no argument {name!r}; {choices(name, every, limit=99)}")


def _some(what: str, values: list[T]) -> list[T]:
    if not values:
        raise ValueError(f"{what}: the list is empty, nothing would be run")
    return values
