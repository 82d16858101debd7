"""Strict checks of values, with messages in words."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field

from sj_lang.component import values


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, 3.4028234e38, 3.4028234e38),
        (float | None, None, None),
        (int | float, 3, 3),
        (str | int, "3", "3"),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[int, ...], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], [1, "a"]),
        (Sequence[str], ["a"], ["a"]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict, {"a": [1]}, {"a": [1]}),
        (list, ["x", 1], ["x", 1]),
        (Literal["a", 1], 1, 1),
        (Colour, "red", "red"),
        (Path, "a/b", "a/b"),
        (Any, {"x": None}, {"x": None}),
        (str | Callable[..., int] | None, "ATan", "ATan"),
        (Annotated[int, Field(ge=1)], 1, 1),
    ],
)
def test_what_is_taken(annotation: Any, value: Any, result: Any) -> None:
    plain, wrong = values.check(annotation, value)
    assert wrong is None
    assert plain == result
    assert type(plain) is type(result)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, True, "expected a whole number, found true"),
        (int, 1.0, "expected a whole number, found 1.0 (a number)"),
        (int, "1", "expected a whole number, found '1' (text)"),
        (float, "3e-4", "expected a number, found '3e-4' (text)"),
        (float, False, "expected a number, found false"),
        (float | None, -1e300, "expected a number that float32 can hold, found -1e+300 (a number)"),
        (bool, 1, "expected true or false, found 1 (a whole number)"),
        (bool, "on", "expected true or false, found 'on' (text)"),
        (str, 3, "expected text, found 3 (a whole number)"),
        (str, None, "expected text, found null"),
        (Optional[int], "x", "expected a whole number or null, found 'x' (text)"),  # noqa: UP045
        (float | int, "x", "expected a number, found 'x' (text)"),
        (
            Literal["forward", "both"],
            "forwrad",
            "expected 'forward' or 'both', found 'forwrad' (text); did you mean 'forward'?",
        ),
        (Literal[1, 2], True, "expected 1 or 2, found true"),
        (Colour | str, "redd", "expected 'red' or 'blue', found 'redd' (text); did you mean 'red'?"),
        (list[int], 3, "expected a list, each item a whole number, found 3 (a whole number)"),
        (tuple[int, str], [1], "expected a list of a whole number, text, found [1] (a list)"),
        (dict[str, Any], [], "expected a mapping, found [] (a list)"),
        (Annotated[int, Field(ge=1, lt=9)], 0, "expected a whole number >= 1 and < 9, found 0 (a whole number)"),
        (str | Callable[..., int], 3, "expected text, found 3 (a whole number)"),
    ],
)
def test_what_is_refused_and_how_it_is_said(annotation: Any, value: Any, message: str) -> None:
    _, wrong = values.check(annotation, value)
    assert wrong == ((), message)


def test_the_item_that_is_wrong_is_named() -> None:
    assert values.check(list[float], [1, "b"])[1] == ((1,), "expected a number, found 'b' (text)")
    assert values.check(dict[str, list[int]], {"a": [1, True]})[1] == (("a", 1), "expected a whole number, found true")
    wrong = values.check(list[float], [1, 3.41e38])[1]
    assert wrong == ((1,), "expected a number that float32 can hold, found 3.41e+38 (a number)")


@pytest.mark.parametrize("annotation", [Callable[..., int], type, list[Path] | object.__class__, bytes, "Unknown"])
def test_what_no_recipe_can_hold(annotation: Any) -> None:
    writable = annotation == (list[Path] | object.__class__)
    assert values.can_be_written(annotation) is writable
