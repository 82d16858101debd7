"""Whether the values of a recipe are right, one by one and together."""

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sj_lang.component import schema, values
from sj_lang.component.problems import Keys, Problem, missing, unknown
from sj_lang.component.remember import remembered
from sj_lang.component.spec import Spec, resolve
from sj_lang.errors import PluginError, UserError, describe, redacted
from sj_lang.recipe.overrides import COMPONENTS

FORMAT = 1
SECTIONS = ("train", "measure", "generate")
SERIES = ("runs", "seeds", "averages")
HEAD = ("recipe", "name", "summary", "seed", "output")
KEYS = (*HEAD, *COMPONENTS, *SECTIONS, *SERIES, "base")
#: Keys of a series that its runs cannot set.
PARENTS = ("recipe", "name", "output", "base", *SERIES)

_SECRET = (
    "holds a token or a password, and a recipe is stored with its run; set HF_TOKEN or use `hf auth login`, and give "
    "an address without them"
)
_HALF = "holds half of a surrogate pair, which is no character and cannot be stored"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")


@functools.cache
def _types() -> dict[str, Any]:
    from pydantic import Field

    seed = Annotated[int, Field(ge=0, lt=2**32)]
    head = {"recipe": Literal[1], "name": str, "summary": str, "seed": seed, "output": str}
    return {**head, "seeds": list[seed] | None}


def check_head(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check the keys at the top and the values of the head; return the head with its defaults."""
    head: dict[str, Any] = {}
    problems = [_where_it_belongs(unknown((key,), KEYS)) for key in data if key not in KEYS]
    if "recipe" not in data:
        problems.append(missing(("recipe",), f"the version of the format: {FORMAT}"))
    for key, annotation in _types().items():
        if key in data:
            head[key], wrong = values.check(annotation, data[key])
            problems += [Problem((key, *wrong[0]), wrong[1])] if wrong else []
    head.setdefault("output", f"runs/{head.get('name')}")
    problems += check_name(head.get("name"), ("name",))
    problems += [] if head["output"] != "" else [Problem(("output",), "expected a folder, found ''")]
    seeds = head.get("seeds")
    if isinstance(seeds, list) and not (seeds and len({repr(seed) for seed in seeds}) == len(seeds)):
        problems.append(Problem(("seeds",), f"expected different numbers, at least one; found {seeds}"))
    return head, problems


def check_texts(tree: Any, keys: Keys = ()) -> list[Problem]:
    """A problem for each text with a token, with a password in an address, or of no characters."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        wrong = [_wrong_text(key) for key in tree]
        named = [Problem(keys, f"a key of it {text}") for text in wrong if text]
        return named + [problem for key, value in items for problem in check_texts(value, (*keys, key))]
    text = _wrong_text(tree)
    return [Problem(keys, text)] if text else []


def _wrong_text(text: Any) -> str:
    if not isinstance(text, str):
        return ""
    if redacted(text) != text:
        return _SECRET
    return _HALF if any("\ud800" <= character <= "\udfff" for character in text) else ""


def check_name(name: Any, keys: Keys) -> list[Problem]:
    """The problem of a name that cannot become a folder, if it has one."""
    if not isinstance(name, str) or _NAME.fullmatch(name):
        return []
    return [Problem(keys, f"expected letters, digits, '.', '_', '+', '-', with '/' between parts; found {name!r}")]


def _where_it_belongs(problem: Problem) -> Problem:
    from sj_lang.recipe import sections

    if "did you mean" in problem.message:
        return problem
    schemas = {"train": sections.train_arguments(), "generate": sections.generate_arguments()}
    for section, arguments in (schemas | {"measure": sections.MEASURE}).items():
        if problem.keys[0] in arguments:
            return Problem(problem.keys, f"unknown key; it belongs under '{section}'", "unknown")
    return problem


def check_body(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check components and sections; return them with all defaults written out."""
    from sj_lang.recipe import sections

    body: dict[str, Any] = {}
    problems: list[Problem] = []
    for kind in COMPONENTS:
        if kind == "tokenizer" and not _tokenizes(body.get("task", {})):
            if kind in data:
                text = f"the task '{body['task']['type']}' reads no text; leave it out"
                problems.append(Problem((kind,), text))
        elif kind in data:
            body[kind], wrong = resolve(kind, data[kind], (kind,))
            problems += wrong
        else:
            problems.append(missing((kind,), schema.Argument(kind, None, part=kind).describe()))
    for key, resolve_section in (
        ("train", sections.resolve_train),
        ("measure", sections.resolve_measure),
        ("generate", sections.resolve_generate),
    ):
        section = {} if data.get(key) is None else data[key]
        if isinstance(section, dict):
            body[key], wrong = resolve_section(section)
            problems += wrong
        else:
            problems.append(Problem((key,), f"expected a section with keys, found {values.tell(section)}"))
    if not problems:
        together = body["task"], body["model"]
        body["model"], problems = remembered(("together", *together), lambda: _check_together(*together))
    return body, problems


def _tokenizes(task: Mapping[str, Any]) -> bool:
    """Whether a resolved task reads texts; so does one with a mistake, whose class is not known."""
    from sj_lang import plugins

    def read() -> bool:
        return bool(getattr(plugins.get("task", task["type"]).load(), "tokenizes", True))

    return not task or remembered(("tokenizes", task["type"]), read)


def _check_together(task: Spec, model: Spec) -> tuple[Spec, list[Problem]]:
    """Let task and config check their values, and the model its neurons. Builds no weights.

    Returns the model's options, with those that its config chose, and the problems.
    """
    from sj_lang.build import Make, check_neurons

    problems: list[Problem] = []
    objects: dict[str, Any] = {}
    for kind, spec in (("task", task), ("model", model)):
        make = Make(kind, spec)
        arguments = schema.arguments(kind, make.target).values()
        if any(argument.handed_in and argument.default is schema.MISSING for argument in arguments):
            continue  # cannot be built before the data are read
        try:
            objects[kind] = make()
        except PluginError as error:
            problems.append(Problem((kind,), str(error), "plugin"))
        except UserError as error:
            problems.append(_placed(kind, str(error)))
        except Exception as error:  # a plugin's own check may raise anything
            problems.append(_placed(kind, " ".join(describe(error).split()).removeprefix("ValueError: ")))
    if "model" in objects:
        model = _with_choices(model, objects["model"])
    if len(objects) == 2:
        try:
            check_neurons(objects["model"], pads=objects["task"].pads)
        except UserError as error:
            problems.append(_placed("model", str(error)))
    return model, problems


def _placed(kind: str, text: str) -> Problem:
    """A component's complaint, at the key that it begins with ("task.split ..."), if any."""
    named = re.match(rf"{kind}((?:\.\w+)+):? ", text)
    return Problem((kind, *named[1][1:].split(".")), text[named.end() :]) if named else Problem((kind,), text)


def _with_choices(spec: Mapping[str, Any], config: Any) -> Spec:
    """The model's options, with what its config chose instead of null from other options."""
    chosen = {name: getattr(config, name, None) for name, value in spec.items() if value is None}
    plain = {name: value if isinstance(value, Spec) else values.plain(value) for name, value in chosen.items()}
    return Spec("model", {**spec, **{name: value for name, value in plain.items() if values.is_plain(value)}})
