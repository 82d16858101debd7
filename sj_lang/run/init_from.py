"""A model that starts from the weights of a checkpoint: `model.init_from`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sj_lang.errors import UserError
from sj_lang.hf import checkpoint, shield
from sj_lang.hf.checkpoint import reading
from sj_lang.hf.loading import inside, listed, load_model
from sj_lang.recipe.checkpoint import KEY, refuse_other_kind

shield()

from tokenizers import Tokenizer  # noqa: E402
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Sizes of tables: the data need that many rows at least; if the checkpoint has more, all are kept.
AT_LEAST = {"max_position_embeddings": "positions", "type_vocab_size": "segments"}
#: What must be the same, though no tensor shows it by its shape.
_ALIKE = ("num_hidden_layers", "num_attention_heads")
#: What a BERT may lack: one that learned only masked tokens has no pooler.
_OPTIONAL = "pooler."
#: A buffer of older BERTs that counts positions; it is not needed.
_COUNTED = "embeddings.position_ids"


def from_checkpoint(
    auto: Any, config: PreTrainedConfig, place: str, notes: list[str], *, fixed: Mapping[str, Any]
) -> PreTrainedModel:
    """A model of `config`: a checkpoint's weights where name and shape agree, fresh ones elsewhere.

    auto: the Auto class that knows the model. place: as `model.init_from` names it, see
    `checkpoint.find`. notes: gets a sentence that names what was there, what is new, what found no
    place, and with what other components and options it was trained. fixed: what the recipe sets,
    so that the checkpoint cannot change it.

    The config's class may say of which other models it takes weights,
    `takes_weights_of = ("bert",)` for instance, and which of its options change what weights mean
    without changing a shape, `meaning = ("hidden_act",)`.

    Tensors of another shape are refused, except in a head, which is then new. UserError also for a
    checkpoint that cannot be read, lacks tensors that its own config promises, is of another kind
    or shares no tensor with the model.
    """
    source = checkpoint.find(place, KEY)
    if isinstance(source, Path):
        checkpoint.refuse_without_weights(source, place, KEY)
    model, report, stored = _load(auto, config, source, place, fixed)
    otherwise = _otherwise(config, stored)
    heads = _refuse_other_shapes(model, report["mismatched_keys"], place)
    names = set(model.state_dict())
    new = {name for name in report["missing_keys"] if name in names} | heads
    if not {name for name in names - new if inside(model, name)}:
        raise UserError(f"{KEY}: {place} has no tensor of this model; is it a checkpoint of another kind?")
    unused = {name for name in report["unexpected_keys"] if not name.endswith(_COUNTED)}
    _refuse_others(model, new, unused, stored, place)
    parts = [f"init_from {place}: {len(names - new)} of {len(names)} tensors were there"]
    parts += [f"new: {_listed(new)}"] if new else []
    parts += [f"without a place here: {_listed(unused)}"] if unused else []
    parts += [f"trained with another {', '.join(otherwise)}"] if otherwise else []
    notes.append("; ".join(parts))
    return model


def check_tokens(place: str, tokenizer: Any) -> None:
    """UserError if a checkpoint in a folder has a tokenizer that numbers its tokens otherwise."""
    source = checkpoint.find(place, KEY)
    its = _tokens(source) if isinstance(source, Path) else None
    if its is None:
        return
    mine = tokenizer.get_vocab()
    other = sorted((number, token) for token, number in its.items() if mine.get(token) != number)
    if other:
        number, token = other[0]
        raise UserError(
            f"tokenizer: {len(other)} of the {len(its)} tokens of model.init_from, {place}, have a different id here, "
            f"such as {token!r}: {number} in the checkpoint, {mine.get(token, 'none')} here. Embeddings would be those "
            "of other tokens; use the checkpoint's own tokenizer"
        )


def _tokens(folder: Path) -> dict[str, int] | None:
    """The tokens of a checkpoint's own tokenizer and their numbers; None: it comes without."""
    if (folder / "tokenizer.json").exists():
        with reading(folder, f"{KEY}: no tokenizer in {folder}"):
            return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    if not (folder / "vocab.txt").exists():
        return None
    try:
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{KEY}: {folder / 'vocab.txt'} is not UTF-8: {error}") from error
    return {token.rstrip("\r"): number for number, token in enumerate(lines)}


def with_rows_of(place: str, recipe: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the config that the data fix, with the sizes of the checkpoint's tables, which
    may have more rows.

    recipe: the model's section, which holds the checkpoint's sizes. UserError if the data need more
    rows than there are, or if the table of tokens is not that of the tokenizer.
    """
    fields = dict(data)
    for key, what in AT_LEAST.items():
        rows, needed = recipe.get(key), data.get(key)
        if not isinstance(rows, int) or not isinstance(needed, int):
            continue
        if rows < needed:
            raise UserError(f"model.{key}: the checkpoint {place} has {rows} {what}, the data need {needed}")
        fields[key] = rows
    tokens, source = recipe.get("vocab_size"), checkpoint.find(place, KEY)
    if isinstance(tokens, int) and "vocab_size" in data and tokens != data["vocab_size"]:
        # a table of tokens that is longer than its own tokenizer is padded, and stays so
        padded = isinstance(source, Path) and len(_tokens(source) or {}) == data["vocab_size"] < tokens
        if not padded:
            raise UserError(
                f"tokenizer: it has {data['vocab_size']} tokens, the checkpoint {place} {tokens}, so that its "
                "embeddings would mean nothing; take the checkpoint's own tokenizer"
            )
        fields["vocab_size"] = tokens
    return fields


def _load(
    auto: Any, config: PreTrainedConfig, source: Path | str, place: str, fixed: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any], dict[str, Any]]:
    """The model, what transformers reports, and the config of the checkpoint."""
    problem = f"{KEY}: no checkpoint with safetensors in {place}"
    with reading(source, problem):
        stored, _ = PreTrainedConfig.get_config_dict(source)
        # a table of tokens that is longer than its own tokenizer is padded, and stays so
        longer = stored.get("vocab_size", config.vocab_size) > config.vocab_size
        padded = longer and isinstance(source, Path) and len(_tokens(source) or {}) == config.vocab_size
        _agree(config, stored, place, fixed, (*AT_LEAST, *(("vocab_size",) if padded else ())))
    with torch.device("meta"):
        auto.from_config(config)  # what the model itself refuses is no fault of the checkpoint
    return *load_model(auto, source, problem, config=config, dtype=torch.float32), stored


def _agree(
    config: PreTrainedConfig, stored: Mapping[str, Any], place: str, fixed: Mapping[str, Any], at_least: Iterable[str]
) -> None:
    """Adopt sizes that are larger in the checkpoint; refuse what would change its weights' meaning.

    at_least: the sizes that may be larger in the checkpoint.
    """
    refuse_other_kind(config, stored.get("model_type", config.model_type), place)
    for key in at_least:
        mine, its = getattr(config, key, None), stored.get(key)
        if isinstance(mine, int) and isinstance(its, int) and its > mine and key not in fixed:
            setattr(config, key, its)
    for key in _ALIKE:
        mine, its = getattr(config, key, None), stored.get(key)
        if mine is not None and its is not None and mine != its:
            raise UserError(f"model.{key}: the checkpoint {place} has {its}, the model {mine}; they must be the same")


def _otherwise(config: PreTrainedConfig, stored: Mapping[str, Any]) -> list[str]:
    """Components, options and `config.meaning` in which the two differ: "a (b there, c here)"."""
    differences = []
    options = getattr(config, "meaning", ())
    for key, its in stored.items():
        mine = getattr(config, key, None)
        if isinstance(mine, Mapping) and "type" in mine:
            parts = its if isinstance(its, Mapping) else {"type": its}
            if parts.get("type") != mine["type"]:
                differences.append(f"{key} ({parts.get('type')} there, {mine['type']} here)")
                continue
            pairs = [(f"{key}.{name}", parts[name], mine[name]) for name in parts if name in mine]
        else:
            pairs = [(key, its, mine)] if key in options else []
        differences += [f"{name} ({there} there, {here} here)" for name, there, here in pairs if there != here]
    return differences


def _refuse_other_shapes(model: PreTrainedModel, mismatched: Iterable[tuple[str, Any, Any]], place: str) -> set[str]:
    """The tensors of heads that have another shape; UserError naming those of the model itself."""
    shapes = {name: (tuple(its), tuple(mine)) for name, its, mine in mismatched}
    wrong = {name: pair for name, pair in sorted(shapes.items()) if inside(model, name)}
    if wrong:
        lines = [f"  {name}: {list(its)} in the checkpoint, {list(mine)} here" for name, (its, mine) in wrong.items()]
        shown = lines[:20] + ([f"  and {len(lines) - 20} more"] if len(lines) > 20 else [])
        raise UserError(f"{KEY}: {place} has tensors of other shapes:\n" + "\n".join(shown))
    return set(shapes)


def _refuse_others(
    model: PreTrainedModel, new: Iterable[str], unused: Iterable[str], stored: Mapping[str, Any], place: str
) -> None:
    """UserError unless the checkpoint has the tensors of the model that one of its own config has,
    and no others; a pooler may be new."""
    kind = stored.get("model_type", model.config.model_type)
    config = CONFIG_MAPPING[kind].from_dict(dict(stored))
    alike = type(model).__name__ in (stored.get("architectures") or ())
    if type(config) not in MODEL_MAPPING and not alike:
        return  # transformers knows it only with a head, and that is another one
    with torch.device("meta"):
        whole = AutoModel.from_config(config) if type(config) in MODEL_MAPPING else type(model)(config)
    promised = set(whole.state_dict())
    prefix = f"{model.base_model_prefix}."
    lost = {name for name in new if inside(model, name) and name.removeprefix(prefix) in promised}
    lost = {name for name in lost if not name.removeprefix(prefix).startswith(_OPTIONAL)}
    if lost:
        raise UserError(f"{KEY}: {place} lacks tensors that its config.json promises: {_listed(lost)}")
    strange = {name for name in unused if inside(model, name) and name.removeprefix(prefix) not in promised}
    if strange:
        raise UserError(f"{KEY}: {place} holds tensors that its config.json does not promise: {listed(strange)}")


def _listed(names: Iterable[str]) -> str:
    """Tensors by their module, layers of a list together: `bert.encoder.layer.*.node.* (14)`."""
    modules = Counter(re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0] + ".*" for name in names)
    return ", ".join(f"{module} ({count})" for module, count in sorted(modules.items()))
