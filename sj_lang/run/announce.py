"""The lines before a training, and those of a dry run that cannot reach its data."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

import torch

from sj_lang.errors import Unreachable
from sj_lang.folder import RunFolder
from sj_lang.monitor import neuron_parameters
from sj_lang.recipe.loading import Recipe
from sj_lang.run.assembly import Job, outline, parameter_table, total_parameters
from sj_lang.run.console import Console, table


def start(job: Job, folder: RunFolder, console: Console, steps: int, checkpoint: Path | None) -> None:
    """Device, sizes, steps and notes of a run."""
    arguments, prepared = job.arguments, job.prepared
    processes = f", {arguments.world_size} processes" if arguments.world_size > 1 else ""
    factors = f"batch {arguments.per_device_train_batch_size}"
    if arguments.gradient_accumulation_steps > 1:
        factors += f" x {arguments.gradient_accumulation_steps} accumulated"
    if processes:
        factors += f" x {arguments.world_size} processes"
    sizes = {"train": prepared.train, "validation": prepared.validation, **prepared.tests, **prepared.unlabelled}
    samples = [f"{name} {size(data)}" for name, data in sizes.items() if data is not None]
    rows = [
        ["device", f"{arguments.device}, {torch.get_num_threads()} thread(s){processes}"],
        ["parameters", f"{total_parameters(job.model):,}, {neuron_parameters(job.model):,} of them in spiking neurons"],
        ["samples", ", ".join(samples)],
        ["steps", f"{steps:,} ({factors})"],
        ["run folder", folder.shown],
    ]
    console.say(f"{job.recipe.name}: {job.recipe.summary}".rstrip(": "))
    for name, text in rows:
        console.say(f"  {name:<11} {text}")
    if checkpoint:
        console.say(f"  continues from {checkpoint.name}")
    for note in job.notes:
        console.say(f"  note: {note}")


def without_data(recipe: Recipe, folder: RunFolder, console: Console, error: Unreachable) -> None:
    """A dry run without the data, which cannot be reached: everything else is built and checked."""
    model, arguments = outline(recipe, folder.root)
    assumed = getattr(model.config, "vocab_size", None)
    console.say(f"{recipe.name}: {recipe.summary}".rstrip(": "))
    if arguments.max_steps > 0:
        console.say(f"  steps       {arguments.max_steps:,}")
    console.say(table(parameter_table(model)))
    console.say("dry run: nothing is trained and nothing is written")
    console.say(f"NOT checked, because they cannot be reached: the data and the tokenizer. {error}")
    if assumed is not None:
        console.say(f"The model is built with vocab_size {assumed:,}; the tokenizer will decide it")


def size(data: object) -> str:
    """The number of samples."""
    return f"{len(data):,}" if isinstance(data, Sized) else "a stream"
