"""report.html: one self-contained page about one run, or about several side by side."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sj_lang.errors import UserError
from sj_lang.folder import RunFolder
from sj_lang.manifest import write_text
from sj_lang.report import costs, pictures, tables, words
from sj_lang.report.pictures import Picture


@dataclass(kw_only=True)
class Page:
    """What the template shows of one run."""

    name: str
    folder: RunFolder
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    recipe: str
    errors: Mapping[str, str]  # split -> what it got most wrong
    prompt: str
    written: str
    use: str
    commands: list[str]
    pictures: list[Picture]
    purity: costs.Purity | None

    @property
    def summary(self) -> str:
        """What its recipe says of it."""
        return str(self.manifest.get("recipe", {}).get("summary") or "")

    @property
    def command(self) -> str:
        """What was typed, for a shell."""
        program, *arguments = map(str, self.manifest.get("argv") or [""])
        return shlex.join([Path(program).name, *arguments]) if program else ""

    @property
    def layers(self) -> list[tuple[str, float, float, str, str]]:
        """(name, firing rate, shares of dead and saturated channels, longest run) of each layer."""
        names = [name.removeprefix("firing_rate.") for name in self.metrics if name.startswith("firing_rate.")]
        rows = []
        for name in names:
            kinds = ("firing_rate", "dead", "saturated", "longest_run")
            rate, dead, saturated, run = (self.metrics.get(f"{kind}.{name}") for kind in kinds)
            if name != "mean" and rate is not None and dead is not None:
                share = "" if saturated is None else f"{100 * saturated:.1f} %"
                rows.append((name, rate, dead, share, "" if run is None else f"{run:.0f}"))
        return rows


def write(run_dirs: Sequence[str | Path]) -> Path:
    """Write report.html, of several runs into the folder that they share; return its path.

    The folder of a series stands for its runs, and gets the report that compares them. If the
    shared folder is that of a series, the page is called comparison.html. UserError for a folder
    that is no run's, and for several folders whose runs have different tasks.
    """
    roots = [Path(run) for run in run_dirs]
    if not roots:
        raise UserError("report: name at least one run folder")
    for root in roots:
        if not (root / "manifest.json").exists():
            raise UserError(f"{root} is not a run folder (it has no manifest.json)")
    expanded = [inner for root in roots for inner in children(root) or [root]]
    pages = [page(root) for root in expanded]
    for one, root in zip(pages, expanded, strict=True) if len(pages) > 1 else ():
        one.name = root.absolute().relative_to(_shared_folder(expanded)).as_posix()
    if len(roots) > 1:
        _refuse_different_tasks(pages)
    if len(roots) == 1:
        title, target = str(RunFolder(roots[0]).read_manifest("name").content["name"]), roots[0] / "report.html"
    else:
        shared = _shared_folder(roots)
        name = "comparison.html" if (shared / "manifest.json").exists() else "report.html"
        title, target = "Comparison of runs", shared / name
    means = (
        RunFolder(roots[0]).read_metrics(tables.are_means, "means of figures")
        if len(roots) == 1 and children(roots[0])
        else {}
    )
    loader = PackageLoader("sj_lang.report", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = jinja.get_template("report.html.j2").render(
        title=title,
        headline=words.headline([_as_run(page) for page in pages]),
        pages=pages,
        tables=tables.tables({page.name: page.metrics for page in pages}, means),
        explained=tables.explained([(page.manifest, page.metrics) for page in pages]),
        bars=costs.bars({page.name: page.metrics for page in pages}),
        parts=list(costs.PARTS.values()),
        tasks=len({str(page.manifest.get("recipe", {}).get("task")) for page in pages}),
        compared=pictures.compared({page.name: (page.folder, page.metrics) for page in pages})
        if len(pages) > 1
        else [],
    )
    write_text(target, html)
    return target


def _as_run(page: Page) -> words.Compared:
    recipe = page.manifest.get("recipe", {})
    model = recipe.get("model")
    is_twin = isinstance(model, Mapping) and bool(model.get("twin"))
    return words.Compared(page.name, f"{_task(recipe.get('task'))} {recipe.get('seed')}", is_twin, page.metrics)


def _refuse_different_tasks(pages: Sequence[Page]) -> None:
    """A series may have several tasks, as a benchmark has. Runs side by side have one."""
    runs: dict[str, list[str]] = {}
    for page in pages:
        if name := _task(page.manifest.get("recipe", {}).get("task")):
            runs.setdefault(name, []).append(page.name)
    if len(runs) > 1:
        texts = "; ".join(f"{name}: {', '.join(names)}" for name, names in runs.items())
        raise UserError(f"report: runs of different tasks cannot be compared ({texts}); name runs of one task")


def _task(section: Any) -> str:
    """The task of a recipe in words, such as "glue sst2"; "" if it is not known."""
    if not isinstance(section, Mapping):
        return str(section or "")
    inner = _task(section.get("task"))  # a distillation learns another task
    return inner or " ".join(str(section[key]) for key in ("type", "name") if section.get(key))


def children(root: Path) -> list[Path]:
    """The run folders of a series that exist, in its order; empty if this is a single run."""
    names = RunFolder(root).read_manifest().content.get("children", [])
    return [root / name for name in names if (root / name / "manifest.json").exists()]


def page(root: Path) -> Page:
    """Read one run folder, finished or not."""
    folder = RunFolder(root)
    manifest = folder.read_manifest("name").content
    metrics = folder.read_metrics()
    sample = folder.read_text(folder.sample)
    prompt, written = words.split_sample(sample, manifest.get("prompt", ""))
    return Page(
        name=manifest["name"],
        folder=folder,
        manifest=manifest,
        metrics=metrics,
        recipe=folder.read_text(folder.recipe),
        errors=_errors(folder, metrics),
        prompt=prompt,
        written=written,
        use=words.use(folder),
        commands=words.commands(folder, manifest["status"], writes=bool(sample)),
        pictures=pictures.of_run(folder, manifest, metrics),
        purity=costs.purity(folder),
    )


def _errors(folder: RunFolder, metrics: Mapping[str, Any]) -> dict[str, str]:
    texts = {split: folder.read_text(folder.errors(split)) for split in dict.fromkeys(n.split(".")[0] for n in metrics)}
    return {split: text for split, text in texts.items() if text}


def _shared_folder(roots: Sequence[Path]) -> Path:
    """The innermost folder that holds all of these."""
    return Path(os.path.commonpath([root.absolute().parent for root in roots]))
