"""Carry out a recipe: a single run, or the runs of a series."""

from __future__ import annotations

from pathlib import Path

import torch

from sj_lang.recipe.loading import Recipe
from sj_lang.run import series
from sj_lang.run.console import Console
from sj_lang.run.single import train


def execute(
    recipe: Recipe,
    *,
    dry_run: bool = False,
    resume: str | Path | None = None,
    changed_data: bool = False,
    debug: bool = False,
) -> int:
    """Carry out a recipe, a single run or a series; returns the exit code 0.

    dry_run: build and check everything, train nothing, write nothing.
    resume: the run folder (of a run, or of a series) to go on with.
    changed_data: go on although the data have changed since the run was started.
    debug: let unexpected exceptions through, with their traceback.

    Raises UserError for what is found before training, RunFailed, Interrupted (SIGTERM or
    SIGHUP; a checkpoint is saved) and KeyboardInterrupt, with the manifest saying so.
    """
    try:
        if recipe.is_series:
            return series.execute(recipe, dry_run=dry_run, resume=resume, changed_data=changed_data, debug=debug)
        train(recipe, Console(), dry_run=dry_run, resume=resume, changed_data=changed_data, debug=debug)
        return 0
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
