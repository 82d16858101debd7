"""Data, model and training arguments of a checked recipe; finds mistakes before the training."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sj_lang.build import Make, check_neurons
from sj_lang.errors import SjLangError, UserError, describe
from sj_lang.hf import checkpoint, shield
from sj_lang.monitor import neuron_parameters
from sj_lang.recipe.sections import NEURON_RATE
from sj_lang.run import init_from
from sj_lang.task import Prepared, Task

shield()

import transformers  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from sj_lang.recipe.loading import Recipe


@dataclass(kw_only=True)
class Job:
    """All that a training needs. notes: sentences for the user about choices that were made.
    checkpoints: what was read beside the data, by the key of the recipe that names it.
    """

    recipe: Recipe
    task: Task
    prepared: Prepared
    model: PreTrainedModel
    arguments: TrainingArguments
    objective: torch.nn.Module | None = None
    notes: list[str] = field(default_factory=list)
    checkpoints: Mapping[str, Path | str] = field(default_factory=dict)

    def sources(self) -> dict[str, str]:
        """SHA-256 of the tokenizer and of each checkpoint, on which the training depends too."""
        digests = {key: checkpoint.digest(source) for key, source in self.checkpoints.items()}
        tokenizer = self.prepared.tokenizer
        if tokenizer is None:
            return digests
        if tokenizer.is_fast:
            content = json.loads(tokenizer.backend_tokenizer.to_str())
            content |= {"padding": None, "truncation": None}  # those of the last call
        else:
            content = tokenizer.get_vocab()
        text = json.dumps(content, sort_keys=True)
        return {**digests, "tokenizer": hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()}


def assemble(recipe: Recipe, output: Path, *, with_objective: bool = True) -> Job:
    """Read the data and build the model of a recipe, with the recipe's seed. Writes nothing.

    The tokenizer, if the task has one, gets the model's longest text as its `model_max_length`, and
    is stored with it: a pipeline can cut. Raises UserError for mistakes of the user.
    """
    with checkpoint.noting() as checkpoints:
        job = _assemble(recipe, output, with_objective=with_objective)
    job.checkpoints = {key: source for key, source in checkpoints.items() if not key.startswith("tokenizer.")}
    return job


def _assemble(recipe: Recipe, output: Path, *, with_objective: bool) -> Job:
    transformers.set_seed(recipe.seed)
    task = make_task(recipe)
    prepared = prepare(task, recipe, tokenizer=_tokenizer(recipe))
    notes = list(prepared.notes)
    arguments = training_arguments(recipe, prepared, output, notes)
    tokenizer, place = prepared.tokenizer, recipe.model.get("init_from")
    if place and tokenizer is not None:
        init_from.check_tokens(place, tokenizer)
    transformers.set_seed(recipe.seed)  # weights depend on the seed alone, not on the data
    model = build_model(recipe, task, prepared.model, notes)
    if tokenizer is not None:
        tokenizer.model_max_length = longest_text(model) or tokenizer.model_max_length
    objective = prepared.objective(model) if prepared.objective and with_objective else None
    return Job(
        recipe=recipe,
        task=task,
        prepared=prepared,
        model=model,
        arguments=arguments,
        objective=objective,
        notes=notes,
    )


def outline(recipe: Recipe, output: Path) -> tuple[PreTrainedModel, TrainingArguments]:
    """The model and the training arguments without the data: weights are fresh, and the fields of
    the config that the data would decide have their defaults."""
    recipe = replace(recipe, model={**recipe.model, "init_from": None})
    transformers.set_seed(recipe.seed)
    task = make_task(recipe)
    arguments = training_arguments(recipe, None, output, [])
    return build_model(recipe, task, task.outline(), []), arguments


def _tokenizer(recipe: Recipe) -> Any:
    """The recipe's tokenizer, with the checkpoint from which the model starts; None without one."""
    make = Make("tokenizer", recipe.tokenizer) if recipe.tokenizer else None
    return functools.partial(make, checkpoint=recipe.model.get("init_from")) if make else None


def make_task(recipe: Recipe) -> Task:
    return cast(Task, Make("task", recipe.task)())


def prepare(task: Task, recipe: Recipe, tokenizer: Any) -> Prepared:
    prepared = task.prepare(tokenizer, seed=recipe.seed)
    if not isinstance(prepared.train, Sized):
        if recipe.train["max_steps"] <= 0:
            raise UserError("train.max_steps: set it; the training data are a stream, which has no number of epochs")
    elif len(prepared.train) == 0:
        raise UserError("task: the training data are empty")
    empty = [name for name, data in {**prepared.tests, **prepared.unlabelled}.items() if len(data) == 0]
    if prepared.validation is not None and len(prepared.validation) == 0:
        empty.insert(0, "validation")
    if empty:
        raise UserError(f"task: no data in {', '.join(empty)}")
    return prepared


def build_model(recipe: Recipe, task: Task, fields: Mapping[str, Any], notes: list[str]) -> PreTrainedModel:
    """Config from the recipe and the data, checked against what its neurons can do; then the
    weights: those of `model.init_from`, or fresh ones.

    fields: those of the config that the data fix. notes: gets a sentence on a checkpoint's weights.
    """
    if place := recipe.model.get("init_from"):
        fields = init_from.with_rows_of(place, recipe.model, fields)
    for key, value in fields.items():
        if key in recipe.model and recipe.model[key] != value:
            raise UserError(f"model.{key}: the recipe says {recipe.model[key]!r}, the data {value!r}; leave it out")
    make = Make("model", recipe.model)
    try:
        config = make(**fields)
        check_neurons(config, pads=task.pads)
        auto = getattr(transformers, task.auto_class)
        if place:
            return init_from.from_checkpoint(auto, config, place, notes, fixed=recipe.model)
        model = auto.from_config(config)
    except (SjLangError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a value of the right type, such as a negative deviation
        text = str(error) if isinstance(error, ValueError) else describe(error)
        raise UserError(f"model '{make.name}': {text}") from error
    return cast("PreTrainedModel", model)


def longest_text(model: PreTrainedModel) -> int | None:
    """The longest text of a model: its `text_limit` (None: any) or its number of positions."""
    return getattr(model, "text_limit", getattr(model.config, "max_position_embeddings", None))


def training_arguments(recipe: Recipe, prepared: Prepared | None, output: Path, notes: list[str]) -> TrainingArguments:
    """TrainingArguments from the recipe's `train:`, with what the run decides itself.

    prepared: None, in an outline, stands for data with a validation part.
    """
    train = {key: value for key, value in recipe.train.items() if key != NEURON_RATE}
    train.setdefault("use_cpu", not torch.accelerator.is_available())
    train.setdefault("disable_tqdm", not sys.stderr.isatty())
    if train.get("ddp_find_unused_parameters") is None:
        train["ddp_find_unused_parameters"] = False  # unused parameters are a clear error
    train.update(output_dir=str(output), seed=recipe.seed)
    if prepared is not None and prepared.label_names is not None:
        train["label_names"] = prepared.label_names
    _plan_evaluation(train, prepared, notes)
    try:
        arguments = transformers.TrainingArguments(**train)
    except Exception as error:  # each field has its own way of refusing a value
        raise UserError(f"train: {error if isinstance(error, ValueError) else describe(error)}") from error
    if arguments.n_gpu > 1:
        notes.append(
            f"{arguments.n_gpu} GPUs are visible, one is used; use all: torchrun --nproc_per_node {arguments.n_gpu} "
            "-m sj_lang run ..."
        )
        arguments._n_gpu = 1  # not DataParallel: it copies modules at every step
    return arguments


def _plan_evaluation(train: dict[str, Any], prepared: Prepared | None, notes: list[str]) -> None:
    """Evaluate and save at the same steps, and keep the best, if there are validation data."""
    if prepared is not None and prepared.validation is None:
        notes.append("no validation data: nothing is evaluated during training and the last weights are taken")
        train.update(eval_strategy="no", eval_on_start=False, load_best_model_at_end=False, metric_for_best_model=None)
        if train.get("save_strategy", "steps") == "steps":
            train.setdefault("save_steps", 0.1)
        return
    strategy = train.setdefault("eval_strategy", train.get("save_strategy", "steps"))
    train.setdefault("save_strategy", strategy)
    if strategy == "steps":
        train.setdefault("eval_steps", train.get("save_steps") or 0.1)
        train.setdefault("save_steps", train["eval_steps"])
    choosing = strategy != "no" and train["save_strategy"] != "no"
    if train.setdefault("load_best_model_at_end", choosing) and prepared is not None:
        train["metric_for_best_model"] = train.get("metric_for_best_model") or prepared.select
        chooses = train["metric_for_best_model"].removeprefix("eval_")
        if chooses == prepared.select:
            train.setdefault("greater_is_better", prepared.greater_is_better)
        else:
            if train.get("greater_is_better") is None:
                train["greater_is_better"] = not chooses.endswith("loss")  # as transformers has it
            which = "highest" if train["greater_is_better"] else "lowest"
            notes.append(f"the checkpoint with the {which} validation {chooses} is taken (train.greater_is_better)")
    elif not train["load_best_model_at_end"]:
        notes.append(
            "no checkpoint is chosen by validation (load_best_model_at_end is off): the last weights are taken"
        )


def parameter_table(model: torch.nn.Module) -> list[list[str]]:
    """Rows [part, parameters]: parts to the second level, a list's layers together, then totals."""
    groups: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")[:-1] or [name]
        digit = next((place for place, word in enumerate(words) if word.isdigit()), None)
        words = [*words[:digit], "*"] if digit is not None else words[:2]
        key = ".".join(words)
        groups[key] = groups.get(key, 0) + parameter.numel()
    rows = [[name, f"{count:,}"] for name, count in groups.items()]
    rows.append(["of these, in spiking neurons", f"{neuron_parameters(model):,}"])
    rows.append(["total", f"{total_parameters(model):,}"])
    return rows


def total_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
