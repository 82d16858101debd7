"""What the checkpoint of `model.init_from` decides of a recipe, before the recipe is checked.

Its sizes and options lie under what the recipe says, as a base does. Sizes must agree. An installed
recipe that sets sizes describes a model of its own: the checkpoint replaces these sizes, and the
recipe's tokenizer too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sj_lang import plugins
from sj_lang.component import schema, values
from sj_lang.component.problems import Keys, Problem, dotted
from sj_lang.errors import PluginError, Unreachable, UserError
from sj_lang.hf import checkpoint as stored
from sj_lang.recipe.files import is_installed
from sj_lang.recipe.overrides import Tree

#: What the shapes of the weights say, so that a recipe cannot differ; the names are transformers'.
SIZES = (
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
)
#: What the config of an ANN twin says of neurons that it does not have, and that it is one.
NOT_OF_TWINS = ("neuron", "coding", "timesteps")

KEY = "model.init_from"
HERE: Keys = ("model", "init_from")


def settle(tree: Tree) -> list[Problem]:
    """Lay the recipe over what its checkpoint decides; return where the two differ."""
    model = tree.data.get("model")
    place = model.get("init_from") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(place, str):
        return []
    try:
        target = plugins.get("model", str(model.get("type"))).load()
    except (UserError, PluginError):
        return []  # the check that follows reports it, with its place
    try:
        decided = fields(target, stored.read_config(place, KEY), place)
        brings_tokenizer = stored.has_tokenizer(stored.find(place, KEY))
    except Unreachable as error:
        tree.notes.append(f"{error}. What it decides is not checked")
        return []
    except UserError as error:
        return [Problem(HERE, str(error).removeprefix(f"{KEY}: "))]
    readers = _readers() if brings_tokenizer else []
    _give_way(tree, decided, readers)
    if readers and "tokenizer" not in tree.data:
        tree.data["tokenizer"] = readers[0]
    laid = Tree({"model": {"type": model["type"], **decided}})
    laid.lay_over(Tree({"model": model}))
    tree.data["model"] = laid.data["model"]
    return [
        Problem(("model", name), f"the checkpoint {place} has {size}, found {values.tell(model[name])}; leave it out")
        for name, size in decided.items()
        if name in SIZES and model.get(name, size) != size
    ]


def fields(target: Any, stored: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The config fields that a checkpoint decides: sizes, components, what weights depend on.

    target: the config class. Its classmethod `fields_of` says what the config of another model
    (`takes_weights_of`) means here. stored: the checkpoint's config. UserError if it is of another
    architecture.
    """
    from transformers import CONFIG_MAPPING

    kind = stored.get("model_type", target.model_type)
    refuse_other_kind(target, kind, place)
    full = CONFIG_MAPPING[kind]().to_dict() | dict(stored)
    arguments = schema.arguments("model", target)
    names = [name for name in SIZES if name in arguments]
    if kind != target.model_type:
        options = target.fields_of(full) if hasattr(target, "fields_of") else {}
        return {name: full[name] for name in names if name in full} | options
    parts = [name for name, argument in arguments.items() if argument.part]
    meaning = [name for name in getattr(target, "meaning", ()) if name in arguments and name != "twin"]
    without = NOT_OF_TWINS if stored.get("twin") else ()
    return {name: full[name] for name in (*names, *parts, *meaning) if name in full and name not in without}


def refuse_other_kind(target: Any, kind: str, place: str) -> None:
    """UserError unless a config class takes weights of this kind of model."""
    taken = (target.model_type, *getattr(target, "takes_weights_of", ()))
    if kind not in taken:
        names = " and ".join(f"'{name}'" for name in taken)
        raise UserError(f"{KEY}: {place} is a checkpoint of '{kind}', this model takes those of {names}")


def _give_way(tree: Tree, decided: Mapping[str, Any], readers: Sequence[str]) -> None:
    """Drop what an installed recipe sets for training from scratch, with a note that names it.

    readers: tokenizers that take the checkpoint's; another one gives way.
    """
    installed = {file for file in {place.file for place in tree.marks.values()} if is_installed(Path(file))}

    def gives_way(*keys: str) -> bool:
        """Whether an installed recipe, and not one of its runs, wrote all that is at these keys."""
        places = [place for path, place in tree.marks.items() if path[: len(keys)] == keys]
        return bool(places) and all(place.file in installed and not place.inside for place in places)

    model = tree.data["model"]
    if not any(gives_way("model", size) for size in SIZES):
        return
    gone: list[Keys] = [("model", name) for name in decided if gives_way("model", name)]
    tokenizer = tree.data.get("tokenizer")
    name = tokenizer.get("type") if isinstance(tokenizer, dict) else tokenizer
    if readers and name not in readers and gives_way("tokenizer"):
        gone.append(("tokenizer",))
    for keys in gone:
        (model if len(keys) == 2 else tree.data).pop(str(keys[-1]))
        tree.marks = {path: place for path, place in tree.marks.items() if path[: len(keys)] != keys}
    names = ", ".join(dotted(keys) for keys in gone)
    tree.notes.append(f"{KEY}: the checkpoint decides, instead of the installed recipe: {names}")


def _readers() -> list[str]:
    """The registered tokenizers that can be that of the checkpoint, which is handed to them."""
    names = []
    for registration in plugins.all("tokenizer"):
        try:
            if "checkpoint" in schema.arguments("tokenizer", registration.load()):
                names.append(registration.name)
        except (UserError, PluginError):
            continue  # reported if a recipe names it
    return names
