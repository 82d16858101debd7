"""The teacher: found, checked against student and data, frozen."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sj_lang import plugins
from sj_lang.errors import PluginError, UserError
from sj_lang.hf.checkpoint import find
from sj_lang.hf.loading import amiss, inside, listed, load_model, load_tokenizer
from sj_lang.task import Prepared

#: a text on which tokenizers of one vocabulary differ if they fold, split or mark differently
PROBE = "The Quick, brown fox-jumps:  it's café № 12.5%!\nOver the lazy dog"

#: tensors of a BERT that the task may have no use for
_OPTIONAL = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


def load_teacher(place: str, auto_class: str, student: PreTrainedModel, ready: Prepared) -> PreTrainedModel:
    """The teacher in evaluation mode, without gradients.

    place: a folder with a model, also of a run, package:NAME or hub:OWNER/NAME. Raises UserError if
    there is none, if it was not trained for the task, or if its tokenizer, its outputs or its
    length are not the student's.
    """
    source = find(place, "task.teacher")
    if isinstance(source, Path) and not (source / "config.json").is_file():
        raise UserError(f"task.teacher: the folder {place} holds no model (no config.json)")
    _register_models()
    problem = f"task.teacher: no model in {place}: it cannot be loaded as {auto_class}"
    tokenizer = load_tokenizer(source, problem)
    model, report = load_model(getattr(transformers, auto_class), source, problem)
    if report["missing_keys"]:
        raise UserError(
            f"task.teacher: {place} was not trained for this task: as {type(model).__name__} it lacks "
            f"{listed(report['missing_keys'])}, which would be random"
        )
    # a head for another task has no place, and no use
    unused = [name for name in report["unexpected_keys"] if inside(model, name) and not name.endswith(_OPTIONAL)]
    if wrong := amiss({**report, "unexpected_keys": unused}):
        raise UserError(f"{problem}: {wrong}")
    _check_tokenizer(place, tokenizer, ready.tokenizer)
    _check_outputs(place, model, student, ready)
    return model.eval().requires_grad_(False)


def _register_models() -> None:
    """A teacher may be a plugin's model, which transformers knows once it is imported."""
    for registration in plugins.all("model"):
        if not registration.missing:
            try:
                registration.load()
            except PluginError:
                continue  # reported when it is used; the teacher may be another one


def _check_tokenizer(place: str, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    advice = f"Take the teacher's: tokenizer: {{type: pretrained, name: {place}}}"
    if theirs != ours:
        differing = sum(theirs.get(token) != ours.get(token) for token in {*theirs, *ours})
        raise UserError(
            f"task.teacher: {place} has a different vocabulary from the student: {len(theirs):,} tokens against "
            f"{len(ours):,}, {differing:,} of them with a different id or on one side only. {advice}"
        )
    if teacher(PROBE)["input_ids"] != student(PROBE)["input_ids"]:
        raise UserError(f"task.teacher: {place} has the student's vocabulary but splits text differently. {advice}")


def _check_outputs(place: str, teacher: PreTrainedModel, student: PreTrainedModel, ready: Prepared) -> None:
    longest = getattr(teacher.config, "max_position_embeddings", None)
    length = ready.model.get("max_position_embeddings")
    if longest and length and longest < length:
        raise UserError(
            f"task.teacher: {place} reads {longest} tokens at most, but the task has {length}; lower its length"
        )
    ours, theirs = ({i: str(n) for i, n in m.config.id2label.items()} for m in (student, teacher))
    if ready.model.get("num_labels") and len(ours) != len(theirs):
        raise UserError(f"task.teacher: {place} has {len(theirs)} classes, the task has {len(ours)}")
    named = not any(name.startswith("LABEL_") for name in {*ours.values(), *theirs.values()})
    if ready.model.get("num_labels") and named and ours != theirs:
        raise UserError(f"task.teacher: {place} numbers its classes {theirs}, the task {ours}")
