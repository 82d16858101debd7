"""YAML 1.2 scalars, duplicate keys, places, and one message for a file that cannot be read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from sj_lang.component import yaml_marks
from sj_lang.component.problems import Place
from sj_lang.errors import UserError

BOMB = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"^f:\d+:\d+  a recipe cannot have more than 50,000 values"),
        (
            'a: &a "' + "x" * 9000 + '"\nb: [' + "*a, " * 900 + "]",
            "^f:1:4  a recipe cannot have more than 50,000 values",
        ),
        ("".join(f"a{n}: 1\n" for n in range(1001)), "^f:1:1  a section cannot hold more than 1,000 keys"),
        ("a: " + "[" * 3000 + "]" * 3000, "^f  a recipe cannot have more than 32 levels of nesting"),
        ("a: " + "[" * 50 + "]" * 50, r"^f:1:\d+  a recipe cannot have more than 32 levels of nesting"),
    ],
    ids=["aliases", "texts", "keys", "depth", "some depth"],
)
def test_what_no_recipe_needs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        yaml_marks.parse(text, "f")


def test_a_long_file(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("#" * (yaml_marks.LARGEST + 1))
    with pytest.raises(UserError, match="more than 1,048,576 bytes"):
        yaml_marks.read(tmp_path / "long.yaml")


@pytest.mark.parametrize("digits", ["9" * 5000, "9223372036854775808", "-9223372036854775809", "0x" + "f" * 17])
def test_whole_numbers_of_more_than_64_bits(digits: str) -> None:
    document = yaml_marks.parse(f"a: {digits}\nb: 9223372036854775807", "f")
    assert document.data == {"a": None, "b": 2**63 - 1}
    assert [(problem.keys, problem.place) for problem in document.problems] == [(("a",), Place("f", 1, 4))]
    assert "64 bits" in document.problems[0].message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3e-4", 3e-4), ("1e5", 1e5), ("-1.", -1.0), (".5", 0.5), ("+.5E3", 500.0), ("0.", 0.0)],
        *[("12", 12), ("-7", -7), ("+3", 3), ("010", 10), ("0o17", 15), ("0xff", 255)],
        *[("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None), ("", None)],
        *[
            (word, word)
            for word in ("on", "off", "yes", "no", "y", "1:30", "1_000", "2020-01-01", "tRUE", "1e", "e5", ".")
        ],
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    for parsed in (yaml_marks.scalar(text), yaml_marks.parse(f"a: {text}", "f").data["a"]):
        assert parsed == value
        assert type(parsed) is type(value)


def test_infinities() -> None:
    assert yaml_marks.scalar("-.inf") == -math.inf
    assert math.isnan(yaml_marks.scalar(".nan"))


def test_quotes_make_text() -> None:
    assert yaml_marks.parse("{a: '3', b: \"true\", c: |\n  12\n}".replace("|\n  12\n", '"12"'), "f").data == {
        "a": "3",
        "b": "true",
        "c": "12",
    }
    assert yaml_marks.parse("a: |\n  12\n", "f").data == {"a": "12\n"}


def test_every_key_and_item_has_its_place() -> None:
    document = yaml_marks.parse("a: 1\nb:\n  c: [1, 2]\n  d:\n  - x\n", "f")
    assert document.data == {"a": 1, "b": {"c": [1, 2], "d": ["x"]}}
    assert document.marks[("b", "c")] == Place("f", 3, 3)
    assert document.marks[("b", "c", 1)] == Place("f", 3, 10)
    assert document.marks[("b", "d", 0)] == Place("f", 5, 5)


def test_a_key_that_stands_twice_is_a_problem() -> None:
    (problem,) = yaml_marks.parse("a: 1\nb: {c: 1, c: 2}\n", "f").problems
    assert str(problem) == "f:2:11  b.c: this key is here twice, first in line 2"


def test_odd_keys() -> None:
    assert yaml_marks.parse("{on: 1, 2: 3}", "f").data == {"on": 1, "2": 3}
    assert "found a list or mapping" in str(yaml_marks.parse("? [a]\n: 1\n", "f").problems[0])


@pytest.mark.parametrize("text", ["a: !!python/object:os.system {}", "a: !x 1", "!!map {a: 1}"])
def test_tags_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"f:1:\d+  a recipe holds names and numbers; the tag"):
        yaml_marks.parse(text, "f")


def test_an_anchor_may_be_used_and_cannot_hold_itself() -> None:
    assert yaml_marks.parse("a: &x {k: 1}\nb: *x\n", "f").data == {"a": {"k": 1}, "b": {"k": 1}}
    (problem,) = yaml_marks.parse("a: &x {k: *x}\n", "f").problems
    assert "cannot contain itself" in str(problem)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "r.yaml is empty; a recipe needs at least"),
        (b"# only a comment\n", "r.yaml is empty"),
        (b"- a\n", "expected keys with values (such as 'recipe: 1'), found a list"),
        (b"hello\n", "found only 'hello'"),
        (b"a: 1\nb: caf\xe9\n", "r.yaml:2  not UTF-8: byte 0xe9; save the file as UTF-8"),
        (b"a: 1\nb: [1, 2\nc: 3\n", "r.yaml:3:2  not valid YAML"),
        (b"a:\n\t- 1\n", "r.yaml:2:1  not valid YAML"),
        (b"a: 1\n---\na: 2\n", "r.yaml:2:1  not valid YAML"),
        (b"a: \x00\n", "r.yaml  not valid YAML"),
    ],
)
def test_one_message_for_a_file_that_is_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        yaml_marks.read(Path("r.yaml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        yaml_marks.read(tmp_path / "none.yaml")
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UserError, match=r"is a folder; its recipe is .*recipe\.yaml"):
        yaml_marks.read(tmp_path)


def test_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfrecipe: 1\n")
    assert yaml_marks.read(path).data == {"recipe": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3e-4", 3e-4), (" 5 ", 5), ("", None), ("ROMEO: hi", "ROMEO: hi"), ("a #b", "a #b"), ("*star", "*star")],
        *[("[1, x]", [1, "x"]), ("{a: 1}", {"a": 1}), ('"12"', "12"), ("'on'", "on"), ("on", "on")],
    ],
)
def test_values_of_overrides(text: str, value: object) -> None:
    assert yaml_marks.value(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1", "expected"), ("{a: 1, a: 2}", "is here twice"), ('"x', "end of stream"), ("[!!int 3]", "the tag")],
)
def test_values_that_are_not_yaml(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        yaml_marks.value(text)


TRICKY = {
    "words": [
        "on",
        "yes",
        "1e5",
        "3e-4",
        "0o17",
        "null",
        "~",
        "",
        " x ",
        "1:30",
        "a: b",
        "#",
        "é",
        "two\nlines",
        "2020-01-01",
    ],
    "numbers": [1e-05, 3e-4, 1e16, -0.0, 5, True, None, math.inf],
    "nested": {"a": {"b": []}, "c": {}},
}


def test_dump_is_read_back_as_it_was() -> None:
    text = yaml_marks.dump(TRICKY)
    assert yaml_marks.parse(text, "f").data == TRICKY
    assert yaml.safe_load(text)["words"] == TRICKY["words"]  # readers of YAML 1.1 see the same text
