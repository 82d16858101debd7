"""The life of a run in its folder: claimed, begun, and ended however it ends."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sj_lang.build import blame
from sj_lang.errors import Interrupted, RunFailed, SjLangError, UserError
from sj_lang.folder import RunFolder, compared, listed
from sj_lang.manifest import Manifest, Status, plain, write_text
from sj_lang.recipe.loading import Recipe
from sj_lang.run.console import Console, is_main_process


def claim(
    recipe: Recipe, resume: str | Path | None, console: Console, *, dry_run: bool
) -> tuple[RunFolder, Manifest | None]:
    """The folder of a run, and the manifest of one that is resumed, which is locked from here on.

    UserError if the folder is not free, is in use, or belongs to another recipe.
    """
    folder = RunFolder(Path(recipe.output if resume is None else resume))
    if resume is None:
        if is_main_process() and not dry_run:
            folder.refuse_unless_free(recipe.resolved())
        return folder, None
    folder.refuse_unless_own(recipe.resolved())
    if is_main_process() and not dry_run and (note := folder.lock()):
        console.say(f"note: {note}")
    return folder, folder.read_manifest()


def refuse_changes(
    previous: Manifest, folder: RunFolder, *, data: Mapping[str, Any], world_size: int, changed_data: bool
) -> list[str]:
    """UserError if a run would go on with other data, another tokenizer or checkpoint to learn
    from, or another number of processes.

    data: the fields "data" and "sources" of the manifest, as they are now; an earlier version
    stored no "sources". changed_data: other ones are accepted, with a note.
    """
    processes = previous.content.get("machine", {}).get("world_size", world_size)
    if processes != world_size:
        raise UserError(
            f"--resume: {folder.shown} was trained by {processes} process(es); {world_size} would train on other "
            f"batches. Use {processes} again (torchrun --nproc_per_node), or start a new run: output=..."
        )
    differing = [one for field in data for one in compared(previous.content.get(field, data[field]), data[field])]
    if not differing:
        return []
    if not changed_data:
        raise UserError(
            f"--resume: the data have changed since {folder.shown} was started, or something else that it reads has:\n"
            f"{listed(differing)}\n"
            "Restore them, start a new run (output=...), or go on with the changed ones: --changed-data"
        )
    return [f"the data have changed since the run was started: {', '.join(key for key, _, _ in differing)}"]


def begin(
    recipe: Recipe,
    folder: RunFolder,
    console: Console,
    previous: Manifest | None,
    *,
    session: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> Manifest:
    """From here on the run has a folder: the manifest, written last, takes it. Main process only.

    session: notes on this process for a resumed run's manifest. fields: those of a new manifest.
    """
    resolved = recipe.resolved()
    if previous:
        previous.resume(**session)
    record = previous or Manifest.start(folder.manifest, name=recipe.name, **fields)
    if is_main_process():
        if not previous and (note := folder.create()):
            console.say(f"note: {note}")
        if not previous or plain(resolved) != record.content.get("recipe"):
            write_text(folder.recipe, recipe.dump_yaml())
        record.update({"recipe": resolved})
        record.reserve()
        console.open(folder.log)
        record.write()
    return record


@contextmanager
def recorded(record: Manifest, folder: RunFolder, console: Console, debug: bool) -> Iterator[None]:
    """Record how the run ends in manifest.json, and the traceback of a surprise in log.txt."""

    def end(status: Status, code: int, error: str) -> None:
        if is_main_process():
            try:
                record.end(status, code, error)
            except OSError as lost:
                console.warn(
                    f"{folder.shown}/{record.path.name} cannot be written, so it does not say so: {lost.strerror}"
                )
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
        hint = _hint(error, folder)
        if is_main_process():
            record.release()  # the log may need the room too
        console.record(traceback.format_exc())
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
        if name := blame(error):
            reason += f" (in {name})"
        end("failed", RunFailed.exit_code, reason)
        if debug:
            raise
        raise RunFailed(
            f"the run failed: {reason}. {hint}The traceback is in {folder.shown}/{folder.log.name}"
        ) from error


def _hint(error: Exception, folder: RunFolder) -> str:
    """What may help, for errors that do not say it themselves."""
    if isinstance(error, torch.OutOfMemoryError):
        return "Lower train.per_device_train_batch_size and raise gradient_accumulation_steps. "
    full = shutil.disk_usage(folder.root).free < 1 << 20
    return f"The disk of {folder.shown} is full; make room and resume. " if full else ""
