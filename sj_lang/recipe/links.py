"""What `run:NAME` means in a run of a series: the folder of another of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sj_lang.errors import UserError, choices
from sj_lang.recipe.loading import Recipe


def linked(runs: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The runs, with the folder of another run of the same seed in place of `run:NAME` in a task.

    Runs are carried out in their order, so the other run must come first. UserError if it does not.
    """
    before: dict[str, Recipe] = {}
    for name, recipe in runs.items():
        head, _, last = name.rpartition("/")
        seed = f"/{last}" if last.startswith("seed-") else ""
        folders = {other.removesuffix(seed): run.output for other, run in before.items() if other.endswith(seed)}
        # in a list of series, `run:NAME` means a run of the same series
        group = (head if seed else name).rpartition("/")[0]
        folders |= {other.removeprefix(f"{group}/"): folder for other, folder in folders.items() if group}
        before[name] = replace(recipe, task=_with_folders(recipe.task, folders, name))
    return before


def _with_folders(value: Any, folders: Mapping[str, str], name: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_folders(inside, folders, name) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_folders(inside, folders, name) for inside in value]
    if not isinstance(value, str) or not value.startswith("run:"):
        return value
    other = value.removeprefix("run:")
    if other not in folders:
        raise UserError(f"run '{name}': {value} names no run that comes before it; {choices(other, list(folders))}")
    return folders[other]
