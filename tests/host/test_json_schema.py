"""The JSON Schema for editors: it takes what is shipped, and refuses what an editor should mark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sj_lang import cli, plugins
from sj_lang.commands import schema
from sj_lang.component import yaml_marks
from sj_lang.errors import UserError
from sj_lang.recipe.check import KEYS


@pytest.fixture(scope="module")
def of_recipes() -> dict[str, Any]:
    return schema.of()


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if "$ref" in part else []
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else []:
        yield from references(inner)


def test_it_names_all_keys_and_components(of_recipes: dict[str, Any]) -> None:
    assert set(of_recipes["properties"]) == set(KEYS)
    defined = of_recipes["definitions"]
    assert {text.removeprefix("#/definitions/") for text in references(of_recipes)} <= defined.keys()
    for kind in ("neuron", "attention", "embedding", "norm", "model", "task", "tokenizer"):
        offered = [offer.name for offer in plugins.all(kind) if not offer.missing]
        assert defined[kind]["anyOf"][0]["enum"] == offered


def test_an_argument_has_its_type_default_and_text(of_recipes: dict[str, Any]) -> None:
    (dsn,) = [entry for entry in of_recipes["definitions"]["neuron"]["anyOf"] if entry.get("title") == "dsn"]
    assert dsn["properties"]["decay"]["enum"] == ["conv", "linear", "static"]
    assert dsn["properties"]["k"]["default"] == 4
    assert dsn["properties"]["k"]["description"].startswith("taps of the convolution")
    rate = of_recipes["properties"]["train"]["properties"]["learning_rate"]
    assert rate["minimum"] == 0
    assert "learning rate" in rate["description"]


@pytest.mark.parametrize("indentation", ["", "    "], ids=["of Python 3.13", "as it is written"])
def test_a_text_does_not_depend_on_the_indentation(indentation: str) -> None:
    """Python 3.13 and newer dedent docstrings."""
    lines = ["A part.", "", "size: how large,", "    in steps. And more:", "other: no more."]
    target = type("Part", (), {"__doc__": f"\n{indentation}".join(lines)})
    offer = SimpleNamespace(load=lambda: target)
    assert schema._own_texts(offer) == {"size": "how large, in steps. And more:", "other": "no more."}  # type: ignore[arg-type]


def test_the_command_prints_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "norm"]) == 0
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/definitions/norm"
    with pytest.raises(UserError, match=r"no schema of 'neurn'; did you mean .*neuron"):
        schema.of("neurn")


def errors(of_recipes: dict[str, Any], recipe: object) -> list[Any]:
    jsonschema = pytest.importorskip("jsonschema", reason="validates JSON Schema; pip install jsonschema")
    jsonschema.Draft7Validator.check_schema(of_recipes)
    return list(jsonschema.Draft7Validator(of_recipes).iter_errors(recipe))


@pytest.mark.parametrize("path", plugins.recipes().values(), ids=plugins.recipes())
def test_shipped_recipes_are_valid(of_recipes: dict[str, Any], path: Path) -> None:
    assert errors(of_recipes, yaml_marks.read(path).data) == []


WRONG = [
    {},
    {"recipe": 2},
    {"recipe": 1, "modell": "spike_decoder"},
    {"recipe": 1, "model": {"type": "spike_decoder", "hiden_size": 3}},
    {"recipe": 1, "model": {"type": "spike_decoder", "neuron": "dns"}},
    {"recipe": 1, "model": {"type": "spike_decoder", "neuron": {"type": "dsn", "k": "four"}}},
    {"recipe": 1, "model": {"neuron": {"kk": 4}}},
    {"recipe": 1, "model": {"neuron": {"type": "sub_steps", "mm": 4, "of": "lif"}}},
    {"recipe": 1, "model": {"neuron": {"type": "sub_steps", "m": 4, "of": {"type": "lif", "tua": 3}}}},
    {"recipe": 1, "train": {"learning_rate": -1}},
    {"recipe": 1, "runs": {"a": {"train": {"lr": 1}}}},
    {"recipe": 1, "seed": -1},
]


@pytest.mark.parametrize("recipe", WRONG)
def test_mistakes_are_marked(of_recipes: dict[str, Any], recipe: dict[str, Any]) -> None:
    assert errors(of_recipes, recipe) != []


def test_what_a_recipe_with_a_base_may_leave_out(of_recipes: dict[str, Any]) -> None:
    recipe = {"recipe": 1, "base": "lm/quickstart", "model": {"neuron": {"k": 3}}, "train": None}
    assert errors(of_recipes, recipe | {"runs": {"a": None, "b": {"model.neuron.k": 5}}}) == []
