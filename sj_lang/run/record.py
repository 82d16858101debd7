"""The life of a run in its folder: claimed, begun, and ended however it ends."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sj_lang.errors import Interrupted, RunFailed, SjLangError
from sj_lang.folder import RunFolder
from sj_lang.manifest import Manifest, Status
from sj_lang.recipe.loading import Recipe
from sj_lang.run.console import Console, is_main_process


def claim(recipe: Recipe, resume: str | Path | None, *, dry_run: bool) -> tuple[RunFolder, Manifest | None]:
    """The folder of a run, and the manifest of the run that is resumed in it.

    UserError if the folder is not free, or belongs to another recipe.
    """
    if resume is not None:
        folder = RunFolder(Path(resume))
        return folder, folder.refuse_unless_own(recipe.resolved())
    folder = RunFolder(Path(recipe.output))
    if is_main_process() and not dry_run:
        folder.refuse_unless_free(recipe.resolved())
    return folder, None


def begin(
    recipe: Recipe,
    folder: RunFolder,
    console: Console,
    previous: Manifest | None,
    *,
    session: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> Manifest:
    """From here on the run has a folder. Writes in the main process only.

    session: notes on this process for a resumed run's manifest. fields: those of a new manifest.
    """
    if previous:
        previous.resume(**session)
    record = previous or Manifest.start(folder.manifest, name=recipe.name, **fields, recipe=recipe.resolved())
    if is_main_process():
        folder.create(new=not previous)
        record.write()
        record.reserve()
        console.open(folder.log)
        if not previous:
            folder.recipe.write_text(recipe.dump_yaml(), encoding="utf-8")
    return record


@contextmanager
def recorded(record: Manifest, folder: RunFolder, console: Console, debug: bool) -> Iterator[None]:
    """Record how the run ends in manifest.json, and the traceback of a surprise in log.txt."""

    def end(status: Status, code: int, error: str) -> None:
        if is_main_process():
            try:
                record.end(status, code, error)
            except OSError as lost:
                console.warn(f"{folder.shown}/{record.path.name} cannot say so, it cannot be written: {lost.strerror}")
            console.record(f"{status}: {error}")

    try:
        yield
    except KeyboardInterrupt:
        end("interrupted", 130, "stopped by Ctrl-C")
        raise
    except Interrupted as error:
        end("interrupted", error.exit_code, str(error))
        raise
    except SjLangError as error:
        end("failed", error.exit_code, str(error))
        raise
    except Exception as error:
        if is_main_process():
            record.release()  # the log may need the room too
        console.record(traceback.format_exc())
        memory = isinstance(error, torch.OutOfMemoryError)
        hint = "Lower train.per_device_train_batch_size and raise gradient_accumulation_steps. " if memory else ""
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
        end("failed", RunFailed.exit_code, reason)
        if debug:
            raise
        raise RunFailed(
            f"the run failed: {reason}. {hint}The traceback is in {folder.shown}/{folder.log.name}"
        ) from error
