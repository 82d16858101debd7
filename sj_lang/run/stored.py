"""Finished runs: evaluate their models again, and let them write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sj_lang import plugins
from sj_lang.component.problems import report
from sj_lang.errors import SjLangError, UserError, describe
from sj_lang.folder import ABSENT, RunFolder, differences
from sj_lang.hf import shield
from sj_lang.hf.checkpoint import reading
from sj_lang.hf.loading import amiss, load_model, load_tokenizer
from sj_lang.manifest import Manifest, plain, write_json
from sj_lang.recipe.loading import Recipe, load
from sj_lang.recipe.sections import check_generation
from sj_lang.report.tables import metric_rows
from sj_lang.run.assembly import Job, longest_text, make_task, prepare, training_arguments
from sj_lang.run.console import Console, is_main_process, table
from sj_lang.run.evaluation import final_figures, unrolled_figures
from sj_lang.run.init_from import AT_LEAST
from sj_lang.run.trainer import RunTrainer

shield()

import transformers  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Stored:
    """A finished run, read from its folder."""

    folder: RunFolder
    manifest: Manifest
    recipe: Recipe
    #: None: the task reads no text
    tokenizer: PreTrainedTokenizerBase | None

    def model(self, auto_class: str) -> PreTrainedModel:
        """The trained weights, in the recipe's class. UserError if they cannot be read."""
        plugins.get("model", self.recipe.model["type"]).load()  # registers its classes
        problem = f"{self.folder.model} holds no model that can be read"
        with reading(self.folder.model, problem):
            config = transformers.AutoConfig.from_pretrained(self.folder.model, trust_remote_code=False)
        self._check_config(config)  # first, as a wrong size could take forever to build
        model, report = load_model(getattr(transformers, auto_class), self.folder.model, problem, config=config)
        if wrong := amiss(report):
            raise UserError(f"{problem}: {wrong}")
        return model

    def tell_changes(self, console: Console) -> None:
        """Name the files of the model that the run did not write, and the settings of the recipe
        that differ from those of the run."""
        for key, before, value in differences(self.manifest.content.get("recipe", {}), self.recipe.resolved()):
            if before != ABSENT and key != "model.init_from":
                console.say(f"note: {self.folder.shown}/recipe.yaml: {key} is {value!r}, in the run it was {before!r}")
        now = self.folder.digests()
        written = self.manifest.content.get("files", now)
        for name in {**written, **now}:
            if now.get(name) != written.get(name):
                console.say(f"note: {self.folder.shown}/{name} is not the file that the run wrote")

    def _check_config(self, config: Any) -> None:
        """UserError if a config contradicts the recipe, except sizes from data or checkpoints."""
        free = ("type", "init_from", "vocab_size", *AT_LEAST)
        for key, value in self.recipe.model.items():
            its = plain(getattr(config, key, value))
            if key not in free and value is not None and its != plain(value):
                raise UserError(f"{self.folder.model}/config.json: {key} is {its!r}, but {value!r} in the run's recipe")


def open_run(run_dir: str | Path) -> Stored:
    """Raises UserError unless `run_dir` is the folder of a run that has a trained model."""
    folder = RunFolder(Path(run_dir))
    model = folder.trained_model()
    recipe = load(str(folder.recipe), ["model.init_from=null"])  # where it started from may be gone
    if recipe.is_series:
        raise UserError(f"{folder.recipe} is the recipe of a series, but {folder.shown} is a single run")
    problem = f"{model} holds no tokenizer that can be read"
    tokenizer = load_tokenizer(model, problem) if recipe.tokenizer else None
    return Stored(folder=folder, manifest=folder.read_manifest(), recipe=recipe, tokenizer=tokenizer)


@contextmanager
def _used(folder: RunFolder) -> Iterator[None]:
    """Inside, what libraries raise about a wrong model or tokenizer becomes a UserError."""
    try:
        yield
    except (SjLangError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{folder.model} and {folder.recipe.name} do not work together: {describe(error)}") from error


def evaluate(run_dir: str | Path, *, unrolled: bool = False) -> int:
    """Evaluate a run's stored model as at its end; prints the figures and writes eval.json.

    unrolled: also with its integer spikes in sub-steps, each product compared with the whole one.
    """
    console = Console()
    run = open_run(run_dir)
    run.tell_changes(console)
    task = make_task(run.recipe)
    with _used(run.folder):
        prepared = prepare(task, run.recipe, tokenizer=lambda texts: run.tokenizer)
    if plain(prepared.fingerprint) != run.manifest.content.get("data"):
        console.say("note: the data are not those of the run, so the figures differ from metrics.json")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(run.recipe, prepared, Path(scratch), [])

        def trainer() -> RunTrainer:
            model = run.model(task.auto_class)
            job = Job(recipe=run.recipe, task=task, prepared=prepared, model=model, arguments=arguments)
            return RunTrainer(job, console)

        with _used(run.folder):
            in_substeps, compared = unrolled_figures(trainer()) if unrolled else ({}, None)
            figures = final_figures(trainer(), prepared, None)
    stored, columns, titles = figures, [figures], []
    if compared is not None:
        columns, titles = [figures, in_substeps], [["", "as it is", "in sub-steps"]]
        counts = {name: getattr(compared, name) for name in ("products", "substeps", "least", "most")}
        stored = figures | {f"unrolled.{name}": value for name, value in {**in_substeps, **counts}.items()}
        console.say(
            f"{compared.products:,} products with spikes ran in {compared.substeps:,} sub-steps, each compared bit for "
            f"bit with the whole product: all are equal. The largest spike is {compared.most}"
            + (f", the smallest {compared.least}." if compared.least else "; each spike of a sub-step is 0 or 1.")
        )
    console.say(table([*titles, *([name, *values] for name, values in metric_rows(columns))]))
    if is_main_process():
        write_json(run.folder.root / "eval.json", stored)
    return 0


def generate(
    run_dir: str | Path,
    prompt: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    stream: bool = False,
) -> int:
    """Print what a run's model writes after `prompt` (None: as at the end of the run).

    options: fields of GenerationConfig, laid over the recipe's `generate:`. seed: None is the
    recipe's. stream: print each word as soon as it is written, and notes after the text.
    """
    run = open_run(run_dir)
    chosen = {**run.recipe.generate, **(options or {})}
    if problems := check_generation(chosen):
        raise report(problems, "the generation options")
    several = [name for name in ("num_beams", "num_return_sequences") if (chosen.get(name) or 1) > 1]
    if stream and several:
        raise UserError(f"generate --stream prints one text as it is written; {several[0]} must be 1")
    task = make_task(run.recipe)
    if prompt is None:
        prompt = run.recipe.generate.get("prompt")
    if prompt is None:
        with _used(run.folder):
            prompt = task.sample_prompt(prepare(task, run.recipe, tokenizer=lambda texts: run.tokenizer))
    if prompt is None or run.tokenizer is None:
        raise UserError(f"generate: the task '{run.recipe.task['type']}' writes no text")
    model = run.model(task.auto_class)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    streamer = transformers.TextStreamer(run.tokenizer, skip_special_tokens=True) if stream else None
    seed = run.recipe.seed if seed is None else seed
    with _used(run.folder):
        text, notes = write_text(model, run.tokenizer, prompt, chosen, seed, streamer=streamer)
    console = Console()
    run.tell_changes(console)
    for note in notes:
        console.say(f"note: {note}")
    if streamer is None:
        console.say(text)
    return 0


def check_writing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, options: Mapping[str, Any]
) -> None:
    """Raise UserError unless the model can write a token with these options."""
    try:
        write_text(model, tokenizer, prompt, options, 0, stopped=lambda: True)
    except Exception as error:  # transformers and models raise anything
        raise UserError(f"generate: the model cannot write with these options: {describe(error)}") from error


def write_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    options: Mapping[str, Any],
    seed: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
    streamer: Any = None,
) -> tuple[str, list[str]]:
    """The prompt and its continuation, and notes on what of either had to be left out.

    options: fields of GenerationConfig; `prompt` among them is left out. stopped: asked after each
    token, whether to write no more. streamer: a `TextStreamer` of transformers, or None.
    """
    check_prompt(model, tokenizer, prompt)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(next(model.parameters()).device)
    chosen = {name: value for name, value in options.items() if name != "prompt" and value is not None}
    notes = [*unknown_in(tokenizer, prompt), *_fit(model, ids.shape[1], chosen)]

    def stop(rows: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full(rows.shape[:1], stopped(), device=rows.device)

    transformers.set_seed(seed)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            tokenizer=tokenizer,  # for stop_strings
            streamer=streamer,
            stopping_criteria=transformers.StoppingCriteriaList([stop]),
            **chosen,
        )
    model.train(was_training)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in written]
    return "\n---\n".join(texts), notes


def unknown_in(tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> list[str]:
    """A note on the parts of the prompt that the tokenizer does not know; none if it knows all."""
    if prompt is None or tokenizer.unk_token_id is None:
        return []
    encoded = tokenizer(prompt, return_offsets_mapping=tokenizer.is_fast)
    where = [place for place, token in enumerate(encoded["input_ids"]) if token == tokenizer.unk_token_id]
    if tokenizer.is_fast:
        pieces = [prompt[slice(*encoded["offset_mapping"][place])] for place in where]
        lost = ", ".join(repr(piece) for piece in dict.fromkeys(pieces) if piece not in ("", tokenizer.unk_token))
    else:
        lost = f"{len(where)} token(s)" if where else ""
    if not lost:
        return []
    return [
        f"the tokenizer does not know {lost} of the prompt: the model reads {tokenizer.unk_token} there, which is not "
        "written out"
    ]


def check_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> None:
    """Raise UserError unless the model can write a token after the prompt, if there is one."""
    if prompt is None:
        return
    length, room = len(tokenizer(prompt)["input_ids"]), longest_text(model)
    if length == 0:
        raise UserError("generate.prompt: the prompt is empty; give at least one token")
    if room and length >= room:
        raise UserError(f"generate.prompt: the prompt has {length} tokens, the model takes {room} in all; shorten it")


def _fit(model: PreTrainedModel, length: int, options: dict[str, Any]) -> list[str]:
    """Lower `max_new_tokens` to the room that the model has; returns a note if so."""
    room, tokens = longest_text(model), options.get("max_new_tokens")
    if not room or tokens is None or length + tokens <= room:
        return []
    options["max_new_tokens"] = room - length
    return [f"the model takes {room} tokens in all, so it writes {room - length} instead of {tokens}"]
