"""One run from a recipe to its folder: train, choose by validation, test once, write down."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sj_lang.errors import SjLangError, Unreachable, UserError, describe
from sj_lang.folder import RunFolder
from sj_lang.manifest import Manifest, device, plain, write_json
from sj_lang.monitor import neuron_parameters, undisturbed
from sj_lang.recipe.loading import Recipe
from sj_lang.report import figures, page, tables
from sj_lang.run import announce, auto_map, card, checkpoints, checks, learning, trial
from sj_lang.run.assembly import Job, assemble, parameter_table, total_parameters
from sj_lang.run.console import Console, duration, is_main_process, table
from sj_lang.run.evaluation import final_figures
from sj_lang.run.record import begin, claim, recorded, refuse_changes
from sj_lang.run.stored import check_prompt, check_writing, unknown_in, write_text
from sj_lang.run.trainer import RunTrainer


def train(
    recipe: Recipe,
    console: Console,
    *,
    dry_run: bool = False,
    resume: str | Path | None = None,
    changed_data: bool = False,
    debug: bool = False,
    in_series: bool = False,
) -> RunFolder:
    """Carry out a recipe that is a single run. A finished one is left alone.

    changed_data: a resume accepts data that have changed. in_series: a dry run builds no objective.
    Data that cannot be reached are only noted in a dry run, unless nobody sees the note.
    """
    folder, previous = claim(recipe, resume, console, dry_run=dry_run)
    try:
        if previous and previous.status == "done":
            if not folder.read_metrics():
                raise UserError(f"{folder.shown} is done, by its manifest.json, and has no figures in metrics.json")
            if is_main_process() and not dry_run and not folder.report.exists():
                page.write([folder.root])
            console.say(f"{recipe.name} is finished: {folder.shown}")
            return folder
        checkpoint, notes = checkpoints.newest(folder.root, previous.id) if previous else (None, [])
        try:
            job = assemble(recipe, folder.root, with_objective=not (dry_run and in_series))
        except Unreachable as error:
            if console.muted or not dry_run:
                raise
            announce.without_data(recipe, folder, console, error)
            return folder
        data: dict[str, Any] = {"data": plain(job.prepared.fingerprint)}
        if previous or not dry_run:
            data["sources"] = job.sources()
        if previous:
            world_size = job.arguments.world_size
            notes += refuse_changes(previous, folder, data=data, world_size=world_size, changed_data=changed_data)
            previous.update(data)
        job.notes[:0] = notes
        trainer = _trainer(job, folder, console)
        _check(trainer, job, dry_run=dry_run)
        announce.start(job, folder, console, checks.planned_steps(trainer), checkpoint)
        if dry_run:
            console.say(table(parameter_table(job.model)))
            console.say("dry run: nothing is trained and nothing is written")
            return folder
        record = _begin(job, folder, console, previous, checkpoint, data)
        trainer.mark.run = record.id
        with trainer.termination.watching(), recorded(record, folder, console, debug):
            if previous and is_main_process():
                _rewind(folder, checkpoint)
            if job.prepared.learner is None:
                _train(trainer, folder, checkpoint)
            else:
                learning.learn(trainer, job.prepared.learner, console)
            _conclude(trainer, job, folder, console, record)
        trainer.termination.check("when the run was finished")
    finally:
        console.close()
        folder.unlock()
    return folder


def _check(trainer: RunTrainer, job: Job, *, dry_run: bool) -> None:
    """Find what would end the run late: a part that fails, a wrong loss, impossible options."""
    checks.check_smoothing(trainer)
    if job.prepared.learner is not None:
        learning.check(job, job.prepared.learner)
    if not trainer.is_spread:
        trial.try_step(trainer, backward=dry_run)
        if job.task.causal:
            trial.check_causality(trainer)
    checks.check_loss(trainer)
    checks.check_choice(trainer)
    checks.check_purity(trainer, job.recipe.measure["purity"])
    prompt = _prompt(job)
    tokenizer = job.prepared.tokenizer
    if prompt is None or tokenizer is None:
        return
    check_prompt(job.model, tokenizer, prompt)
    job.notes += unknown_in(tokenizer, prompt)
    if not trainer.is_spread:
        with undisturbed(job.model), trainer.with_its_cache():
            check_writing(job.model, tokenizer, prompt, job.recipe.generate)


def _trainer(job: Job, folder: RunFolder, console: Console) -> RunTrainer:
    """The Trainer makes its folder at once, so it gets a scratch one until all is checked."""
    with tempfile.TemporaryDirectory() as scratch, _tensorboard_in(folder):
        job.arguments.output_dir = scratch
        try:
            trainer = RunTrainer(job, console, folder)
        except SjLangError:
            raise
        except Exception as error:  # fields of TrainingArguments refuse values in many ways
            plain = ValueError | RuntimeError | ImportError
            raise UserError(f"train: {error if isinstance(error, plain) else describe(error)}") from error
    job.arguments.output_dir = str(folder.root)
    return trainer


@contextmanager
def _tensorboard_in(folder: RunFolder) -> Iterator[None]:
    """Inside, TensorBoard writes into the run's folder and not beside it."""
    name = "TENSORBOARD_LOGGING_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder.tensorboard)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _begin(
    job: Job,
    folder: RunFolder,
    console: Console,
    previous: Manifest | None,
    checkpoint: Path | None,
    data: Mapping[str, Any],
) -> Manifest:
    """A new run, or one that goes on from a checkpoint. data: fields of the manifest on them."""
    machine = device(job.arguments.world_size, str(job.arguments.device))
    return begin(
        job.recipe,
        folder,
        console,
        previous,
        session={"machine": machine, "checkpoint": checkpoint.name if checkpoint else None},
        fields={
            "seed": job.recipe.seed,
            "machine": machine,
            **data,
            "loss": job.prepared.loss,
            "notes": job.notes,
        },
    )


def _rewind(folder: RunFolder, checkpoint: Path | None) -> None:
    """Remove what the run wrote after the checkpoint."""
    step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    folder.rewind(step)
    folder.discard_results()
    checkpoints.clear(folder.root, step)


def _train(trainer: RunTrainer, folder: RunFolder, checkpoint: Path | None) -> None:
    if checkpoint:
        trainer.mark.restore(checkpoint)
        trainer.args.eval_on_start = False  # it was, at the start
    with _tensorboard_in(folder):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _conclude(trainer: RunTrainer, job: Job, folder: RunFolder, console: Console, record: Manifest) -> None:
    """Store the weights, look at the test data once, and write everything down."""
    trainer.termination.check()
    trainer.release_model()
    trainer.save_model(str(folder.model))
    splits = {"validation": job.prepared.validation, **job.prepared.tests, **job.prepared.unlabelled}
    counts = [f"{name} ({announce.size(data)})" for name, data in splits.items() if data is not None]
    console.say(f"the weights are stored; predicting {', '.join(counts)}, and measuring" if counts else "measuring")
    metrics = final_figures(trainer, job.prepared, folder if is_main_process() else None)
    metrics |= _training_figures(trainer, job, folder)
    measured = trainer.measurements
    spikes, tokens, decays = measured.raster(), measured.tokens(), measured.decays()
    text = measured.raster_text() if spikes else ""  # on all processes, as they share the data
    trainer.termination.check()
    if not is_main_process():
        return
    folder.write_metrics(metrics)
    if measured.ledger is not None:
        write_json(folder.ledger, measured.ledger.content())
    (folder.model / card.FILE).write_text(card.write(job.recipe, job.task.auto_class, metrics), encoding="utf-8")
    auto_map.write(job.recipe, folder.model)
    notes = [*job.notes, *job.prepared.remarks]
    record.update({"chosen_step": trainer.chosen_step(), "notes": notes, "files": folder.digests()})
    console.say("drawing the figures" + (", and writing a text" if _prompt(job) is not None else ""))
    history = folder.read_history()
    figures.learning_curves(history, folder.figures / "learning_curves.png", chosen=trainer.chosen_step())
    figures.firing_rates(history, folder.figures / "firing_rates.png")
    figures.raster({name: part.numpy() for name, part in spikes.items()}, folder.figures / "raster.png", tokens)
    if text:
        folder.figures.mkdir(exist_ok=True)
        folder.raster_text.write_text(text, encoding="utf-8")
    figures.decays({name: part.numpy() for name, part in decays.items()}, folder.figures / "decays.png")
    figures.decays_over_training(history, folder.figures / "decays_over_training.png")
    _let_write(trainer, job, folder, console, record)
    record.end("done", 0)
    page.write([folder.root])
    console.say()
    console.say(f"{job.recipe.name}: done in {duration(trainer.mark.seconds)}")
    console.say(table([[name, *values] for name, values in tables.metric_rows([metrics])]))
    for remark in job.prepared.remarks:
        console.say(f"note: {remark}")
    if folder.sample.exists():
        console.say("It wrote:")
        console.quote(folder.sample.read_text("utf-8"))
    console.say(f"Report: {folder.shown}/{folder.report.name}")


def _training_figures(trainer: RunTrainer, job: Job, folder: RunFolder) -> dict[str, float]:
    mark = trainer.mark
    losses = figures.series(folder.read_history(), "train.loss")[1]
    loss: dict[str, float] = {"train.loss": losses[-1]} if losses else {}
    prepared: dict[str, float] = getattr(job.objective, "figures", {})
    speed = {"train.seconds_per_step": mark.busy_seconds / max(trainer.state.global_step, 1)}
    if mark.tokens:
        speed["train.tokens_per_second"] = mark.tokens / mark.busy_seconds if mark.busy_seconds else 0.0
    return (
        prepared
        | loss
        | {"train.steps": trainer.state.global_step, "train.seconds": mark.seconds}
        | speed
        | {
            "parameters.total": total_parameters(job.model),
            "parameters.neurons": neuron_parameters(job.model),
        }
    )


def _prompt(job: Job) -> str | None:
    """The text that the model continues at the end; None if it writes no text."""
    if not hasattr(job.model, "generate"):
        return None
    prompt: str | None = job.recipe.generate.get("prompt")
    return job.task.sample_prompt(job.prepared) if prompt is None else prompt


def _let_write(trainer: RunTrainer, job: Job, folder: RunFolder, console: Console, record: Manifest) -> None:
    prompt = _prompt(job)
    if prompt is None or job.prepared.tokenizer is None:
        return
    if trainer.is_spread:
        console.say(f"note: the model is spread over processes; to let it write: sj-lang generate {folder.shown}")
        return
    text, notes = write_text(
        job.model,
        job.prepared.tokenizer,
        prompt,
        job.recipe.generate,
        job.recipe.seed,
        stopped=lambda: trainer.termination.requested > 0,
    )
    trainer.termination.check()
    for note in notes:
        console.say(f"note: {note}")
    folder.sample.write_text(text + "\n", encoding="utf-8")
    ids = job.prepared.tokenizer(prompt)["input_ids"]
    # as the text has it, which is decoded too
    record.update({"prompt": job.prepared.tokenizer.decode(ids, skip_special_tokens=True)})
