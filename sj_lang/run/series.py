"""A recipe with `runs:` or `seeds:`: many runs below one folder, their figures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sj_lang.errors import Interrupted, RunFailed, SjLangError, UserError, describe
from sj_lang.folder import RunFolder
from sj_lang.recipe import averages
from sj_lang.recipe.links import linked
from sj_lang.recipe.loading import Recipe
from sj_lang.report import page, tables
from sj_lang.run.console import Console, is_main_process, table
from sj_lang.run.record import begin, claim, recorded
from sj_lang.run.single import train


def execute(
    recipe: Recipe,
    *,
    dry_run: bool = False,
    resume: str | Path | None = None,
    changed_data: bool = False,
    debug: bool = False,
) -> int:
    """Train every run of a series that is not finished yet, then compare. A failure stops none.

    Raises UserError before the first training if any of the runs cannot be built, RunFailed at the
    end if any failed.
    """
    console = Console()
    folder, previous = claim(recipe, resume, console, dry_run=dry_run)
    try:
        runs = linked({name: replace(child, output=f"{folder.shown}/{name}") for name, child in recipe.children()})
        groups = grouped(list(runs), default=Path(recipe.name).name)
        over = previous is not None and previous.status == "done"  # its data may be gone
        _rehearse(runs, {} if over else groups, console if dry_run else Console(muted=True))
        if dry_run:
            return 0
        fields = {"notes": [], "children": list(runs)}
        record = begin(recipe, folder, console, previous, session={}, fields=fields)
        with recorded(record, folder, console, debug):
            failed = _train_all(runs, console, changed_data=changed_data, debug=debug)
            _conclude(recipe, folder, groups, console)
            if failed:
                raise RunFailed(f"{len(failed)} of {len(runs)} runs failed:\n" + "\n".join(failed))
            if is_main_process():
                record.end("done", 0)
    except Interrupted as error:
        stopped = str(error).partition(" To continue")[0]
        raise Interrupted(f"{stopped} To continue: {folder.continuing}", error.exit_code) from error
    finally:
        console.close()
        folder.unlock()
    return 0


def grouped(names: Sequence[str], default: str) -> dict[str, list[str]]:
    """Run -> the names of its seeds' runs. default: the run's name in a series of seeds alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        head, _, last = name.rpartition("/")
        run = (head or default) if last.startswith("seed-") else name
        groups.setdefault(run, []).append(name)
    return groups


def summary(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | int | None]]:
    """Mean, sample standard deviation (None for one run) and n of figures that all runs have."""
    names = [name for name in metrics[0] if all(name in one for one in metrics)]
    return {name: averages.spread([float(one[name]) for one in metrics]) for name in names}


def _rehearse(runs: Mapping[str, Recipe], groups: Mapping[str, list[str]], console: Console) -> None:
    """Build one run of each group, so that mistakes in any are found before the first is trained.

    A task's objective is built when its run starts, because it may need the run before it.
    """
    for names in groups.values():
        console.say(f"== {names[0]}" + (f" and {len(names) - 1} more seeds" if len(names) > 1 else ""))
        try:
            train(runs[names[0]], console, dry_run=True, in_series=True)
        except SjLangError as error:
            raise type(error)(f"run '{names[0]}': {error}") from error


def _train_all(runs: Mapping[str, Recipe], console: Console, *, changed_data: bool, debug: bool) -> list[str]:
    """Train the runs that are not finished. Returns a line for each that failed."""
    failed = []
    for index, (name, recipe) in enumerate(runs.items()):
        console.say(f"== {name} (run {index + 1} of {len(runs)})")
        begun = (Path(recipe.output).expanduser() / "manifest.json").exists()
        try:
            resume = recipe.output if begun else None
            train(recipe, Console(), resume=resume, changed_data=changed_data and begun, debug=debug)
        except Interrupted:
            raise
        except Exception as error:  # whatever is wrong with one run, the others go on
            if debug and not isinstance(error, SjLangError):
                raise
            reason = str(error) if isinstance(error, SjLangError) else f"unexpected {describe(error)}"
            failed.append(f"{name}: {reason}")
            console.say(f"{name} failed: {reason}")
    return failed


def _conclude(recipe: Recipe, folder: RunFolder, groups: Mapping[str, list[str]], console: Console) -> None:
    """metrics.json, report.html and the last table, from the runs that are finished."""
    if not is_main_process():
        return
    figures: dict[str, list[Mapping[str, float]]] = {}
    texts: dict[str, str] = {}
    for run, names in groups.items():
        for one in (RunFolder(folder.root / name) for name in names):
            try:
                read, text = one.read_metrics(), one.read_text(one.sample)
            except UserError:
                continue  # it is among the runs that failed
            if read:
                figures.setdefault(run, []).append(read)
                texts |= {run: text} if text and run not in texts else {}
    metrics: dict[str, Any] = {run: summary(each) for run, each in figures.items()}
    computed, notes = averages.compute(recipe.averages or {}, figures)
    folder.write_metrics(metrics | averages.stored(computed))
    try:
        page.write([folder.root])
        last = f"Report: {folder.shown}/{folder.report.name}"
    except UserError as error:  # a run whose folder is damaged
        last = f"note: there is no report: {error}"
    if not metrics:
        return
    console.say()
    for run, text in texts.items():
        console.say(f"{run} wrote:")
        console.quote(text)
    if recipe.averages:
        console.say(table(averages.rows(recipe.averages, figures, computed, tables.show)))
    else:
        rows = tables.metric_rows(list(metrics.values()))
        console.say(table([["", *metrics], *([name, *values] for name, values in rows)]))
    for note in notes:
        console.say(f"note: {note}")
    console.say(last)
