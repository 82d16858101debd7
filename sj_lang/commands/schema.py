"""`sj-lang schema`: JSON Schema of recipes, for editors, from the components' own schemas.

It says less than `sj-lang validate`: a recipe may leave anything to its base, so no key of a
component is required, and what only holds of several values together is not in it.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sj_lang import hf, plugins
from sj_lang.component import values
from sj_lang.component.remember import remembered
from sj_lang.component.schema import MISSING, Argument, arguments_of, takes_data, takes_several
from sj_lang.component.spec import SPLITS
from sj_lang.errors import SjLangError, UserError, choices
from sj_lang.hookspecs import KINDS, Registration
from sj_lang.recipe import sections
from sj_lang.recipe.check import FORMAT, PARENTS, SECTIONS
from sj_lang.recipe.overrides import COMPONENTS

Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"  # the one that yaml-language-server knows best
RECIPE = "recipe"


def of(kind: str = RECIPE) -> Schema:
    """The schema of a whole recipe, or of one component of a kind, with all that is installed."""
    if kind not in (RECIPE, *KINDS):
        raise UserError(f"no schema of '{kind}'; {choices(kind, (RECIPE, *KINDS))}")
    schema = _recipe() if kind == RECIPE else {"$ref": f"#/definitions/{kind}"}
    definitions = {one: _component(one) for one in KINDS if one != "source"}
    return {"$schema": DIALECT, "title": f"sj_lang: {kind}", **schema, "definitions": {**definitions, "data": _data()}}


def _recipe() -> Schema:
    body = {kind: {"$ref": f"#/definitions/{kind}"} for kind in COMPONENTS} | {
        name: _section(name) for name in SECTIONS
    }
    seed = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**32}
    head: Schema = {
        "recipe": {"const": FORMAT, "description": "the version of the format"},
        "name": {"type": "string"},
        "summary": {"type": "string", "description": "one line for `sj-lang ls`"},
        "seed": {**seed, "default": 0, "description": "of weights, the order of the data and sampling"},
        "output": {"type": "string", "description": "the run folder; by default runs/ and the name"},
        "base": {"type": "string", "description": "a recipe, by name or path, to which this one is the difference"},
        "seeds": {"type": ["array", "null"], "items": seed, "minItems": 1, "uniqueItems": True},
        "averages": {"type": ["object", "null"], "description": "a number over figures of several runs"},
    }
    of_a_run = {name: schema for name, schema in (head | body).items() if name not in PARENTS}
    run = {
        **_object(of_a_run),
        "type": ["object", "null"],
        "patternProperties": {r"\.": {"description": "a change, such as model.twin: true"}},
    }
    named = {"type": "object", "additionalProperties": run, "minProperties": 1}
    listed = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    runs = {"anyOf": [named, listed, {"type": "null"}], "description": "several runs: names with changes, or recipes"}
    return {**_object(head | body | {"runs": runs}), "required": ["recipe"]}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _section(name: str) -> Schema:
    read: dict[str, Callable[[], Mapping[str, Argument]]] = {
        "train": sections.train_arguments,
        "generate": sections.generate_arguments,
        "measure": lambda: sections.MEASURE,
    }
    texts = {} if name == "measure" else remembered(("texts of", name), lambda: _transformers_texts(name))
    return {**_object({key: _argument(a, texts) for key, a in read[name]().items()}), "type": ["object", "null"]}


def _transformers_texts(name: str) -> dict[str, str]:
    hf.shield()
    import transformers

    owner = transformers.TrainingArguments if name == "train" else transformers.GenerationConfig
    text = inspect.cleandoc(owner.__doc__ or "") + "\n"  # which Python 3.13 has done already
    entries = re.findall(r"^ {4}(\w+) ?\(.*?\):\n((?: {8}.*\n|\n)+)", text, re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in entries}


def _component(kind: str) -> Schema:
    """A name, a mapping with `type` and its arguments, or one without `type`, for a base."""
    summaries: dict[str, str] = {}
    mappings: list[Schema] = []
    union: dict[str, list[Schema]] = {}
    for offer in plugins.all(kind):
        try:
            arguments = arguments_of(kind, offer.name)
            key = ("texts of", kind, offer.name, offer.target)
            texts = remembered(key, functools.partial(_own_texts, offer))
        except SjLangError:
            continue  # not available here, or broken: `sj-lang plugins` says why
        properties = {name: _argument(a, texts) for name, a in arguments.items() if a.settable}
        # a task that wraps another one accepts the inner one's keys too; a neuron does not
        wraps = not offer.wraps and any(argument.part == kind for argument in arguments.values())
        mapping = _object({"type": {"const": offer.name}, **properties})
        mappings.append({**mapping, "required": ["type"], "additionalProperties": wraps, "title": offer.name})
        summaries[offer.name] = offer.summary
        for name, property in properties.items():
            union.setdefault(name, []).append(property)
    names = {"enum": list(summaries), "description": "; ".join(f"{name}: {text}" for name, text in summaries.items())}
    untyped = {name: {"anyOf": options} if len(options) > 1 else options[0] for name, options in union.items()}
    return {"anyOf": [names, *mappings, {**_object(untyped), "title": "of the type that the base names"}]}


def _own_texts(offer: Registration) -> dict[str, str]:
    """name -> text of the lines "name: text" of a docstring, with the lines that continue it.

    A class also has the texts of its bases; the nearest class counts.
    """
    target = offer.load()
    docs = [inspect.cleandoc(one.__doc__ or "") for one in reversed(getattr(target, "__mro__", [target]))]
    entries = re.findall(r"^ *(\w+): (.+(?:\n {4,}\S.*)*)", "\n".join(docs), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _argument(argument: Argument, texts: Mapping[str, str]) -> Schema:
    null = [{"type": "null"}] * (argument.default is None or "null" in values.describe(argument.annotation))
    if argument.part:
        schema: Schema = _any([{"$ref": f"#/definitions/{argument.part}"}, *null])
    elif takes_data(argument.annotation):
        data = {"$ref": "#/definitions/data"}
        several = [{"type": "array", "items": data, "minItems": 1}] * takes_several(argument.annotation)
        schema = _any([data, *several, *null])
    else:
        schema = _plain(argument.annotation)
    if argument.default is not MISSING and not argument.handed_in and values.is_plain(argument.written_default):
        schema = {**schema, "default": argument.written_default}
    return {**schema, "description": texts.get(argument.name) or argument.describe()}


def _any(options: Iterable[Schema]) -> Schema:
    listed = list(options)
    return listed[0] if len(listed) == 1 and "$ref" not in listed[0] else {"anyOf": listed}


def _plain(annotation: Any) -> Schema:
    from pydantic import TypeAdapter

    schema: Schema = TypeAdapter(values.simplify(annotation)).json_schema()
    return schema


def _data() -> Schema:
    sources = {"enum": [source.name for source in plugins.all("source")], "description": "a registered source"}
    place = {"type": "string", "description": "hub:owner/name[/config], or a path"}
    return _any([sources, place, _object({name: {"type": "string"} for name in SPLITS})])
