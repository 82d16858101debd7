"""report.html: one self-contained page about one run, or about several side by side."""

import base64
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from sj_lang.errors import UserError
from sj_lang.folder import RunFolder, is_figure
from sj_lang.manifest import LOSS, write_text
from sj_lang.report import costs, figures, words

#: order of a table, by the first word of a figure's name; test splits come before these
GROUPS = (
    *("ablation", "baseline", "validation", "train", "parameters"),
    *("firing_rate", "dead", "saturated", "longest_run", "energy"),
)
LAYERED = ("firing_rate.", "dead.", "saturated.", "longest_run.")

_WHOLE = ("steps", "tokens_per_second", ".macs", ".accumulations", ".other", "_bytes", "longest_run.max")
UNITS = {"seconds": "s", "seconds_per_step": "s", "tokens_per_second": "tokens/s", "bits_per_char": "bits"}

EXPLAINED = {
    "test.bits_per_char": "bits that the model needs for a character of the test text",
    "train.loss": "what the training minimises, mean over the last steps: those since the previous line of the log",
    "train.seconds": "wall clock of the training loop, evaluations during training included",
    "train.seconds_per_step": "of the optimizer, without the time of evaluations, checkpoints and measurements",
    "train.tokens_per_second": "without the time of evaluations, checkpoints and measurements",
    "parameters.neurons": "of the total: parameters inside spiking neurons",
    "firing_rate.mean": "spikes over the most possible, mean over neurons and steps of the test data",
    "energy.mj": "one forward pass of a test sample, without memory traffic: synapses and neurons",
    "energy.synapses_mj": "of it, or of its known part: matrix products, as stated in papers",
    "energy.neurons_mj": "of it: the arithmetic inside the neurons",
    "energy.other_mj": "beside it: norms, softmax, activations, sums of tensors",
    "energy.memory_mj": "beside it: each operand read once, from the smallest memory that holds it",
    "energy.total_mj": "all of these",
    "energy.macs": "multiply-accumulates of the synapses",
    "energy.accumulations": "accumulations of the synapses: one for each unit of a spike",
    "energy.other": "operations of norms, softmax, activations and sums",
    "energy.weights_bytes": "weights moved, each once a pass and layer",
    "energy.states_bytes": "states of neurons moved, read and written at each step",
    "energy.activations_bytes": "inputs and outputs of operations moved",
    "energy.ratio": "the total over that of the same products with floats and without neurons",
    "energy.mean_spike": "accumulations for each multiplication that spikes spare",
    "energy.crossover": "the mean spike at which the ratio is 1; if below 0, the ratio is always above 1",
    "saturated.mean": "share of channels that fired at every step of the test data",
    "longest_run.max": "most steps in a row at which a neuron fired",
    "dead.mean": "share of channels that never fired on the test data",
    "ablation.attention.loss": "the test loss with the mean of each attention's output in the place of the output",
    "ablation.mlp.loss": "the same with the outputs of the MLPs",
}


class Picture(NamedTuple):
    title: str
    source: str  # data URI
    text: str  # what the figure shows, for those who cannot see it


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
        program, *words = map(str, self.manifest.get("argv") or [""])
        return shlex.join([Path(program).name, *words]) if program else ""

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
        RunFolder(roots[0]).read_metrics(_are_means, "means of figures")
        if len(roots) == 1 and children(roots[0])
        else {}
    )
    loader = PackageLoader("sj_lang.report", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = jinja.get_template("report.html.j2").render(
        title=title,
        headline=words.headline([_as_run(page) for page in pages]),
        pages=pages,
        tables=_tables(pages, means),
        explained=EXPLAINED | _losses(pages) | _lengths(pages),
        bars=costs.bars({page.name: page.metrics for page in pages}),
        parts=list(costs.PARTS.values()),
        tasks=len({str(page.manifest.get("recipe", {}).get("task")) for page in pages}),
        compared=_comparison(pages) if len(pages) > 1 else [],
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
        pictures=_pictures(folder, manifest, metrics),
        purity=costs.purity(folder),
    )


def _errors(folder: RunFolder, metrics: Mapping[str, Any]) -> dict[str, str]:
    texts = {split: folder.read_text(folder.errors(split)) for split in dict.fromkeys(n.split(".")[0] for n in metrics)}
    return {split: text for split, text in texts.items() if text}


class FigureTable(NamedTuple):
    """Figures of several columns; a row is (name, one text per column)."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]]


def _tables(pages: Sequence[Page], means: Mapping[str, Mapping[str, Any]]) -> list[FigureTable]:
    """means: run -> its figures over several seeds; empty if there are none."""
    tables = []
    averages = {run: figures for run, figures in means.items() if run.partition("/")[0] == "average"}
    if averages:
        columns = [run.partition("/")[2] or "all runs" for run in averages]
        tables.append(FigureTable("Averages", columns, metric_rows(list(averages.values()))))
    means = {run: figures for run, figures in means.items() if run not in averages}
    counts = {run: max(value["n"] for value in figures.values()) for run, figures in means.items()}
    if any(n > 1 for n in counts.values()):
        columns = [f"{run}, mean of {n} runs" for run, n in counts.items()]
        title = "Means, with the deviation between runs (sample standard deviation)"
        tables.append(FigureTable(title, columns, metric_rows(list(means.values()))))
    columns = [page.name for page in pages] if len(pages) > 1 else ["value"]
    return [*tables, FigureTable("Figures", columns, metric_rows([page.metrics for page in pages]))]


def _losses(pages: Sequence[Page]) -> dict[str, str]:
    """The explanation of each split's loss, by the runs' tasks."""
    explanations: dict[str, dict[str, None]] = {}
    for page in pages:
        for name in page.metrics:
            if name.endswith(".loss") and not name.startswith(("train.", "ablation.")):
                explanations.setdefault(name, {})[page.manifest.get("loss", LOSS)] = None
    return {name: "; or, of other tasks here: ".join(texts) for name, texts in explanations.items()}


def _lengths(pages: Sequence[Page]) -> dict[str, str]:
    """The explanation of figures at a length, "test@N.<figure>"."""
    at = {name: figures.length_of(name) for page in pages for name in page.metrics}
    places = {
        "bits_first_tenth": ", bits per character in their first tenth",
        "bits_last_tenth": ", in their last tenth",
    }
    return {
        name: f"the test text in windows of {of[0]} tokens" + places.get(of[1], "") for name, of in at.items() if of
    }


def metric_rows(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(name, one text per run) of all figures that any run has, except those of single layers."""
    names = list(dict.fromkeys(name for one in metrics for name in one))
    plain = [name for name in names if not name.startswith(LAYERED) or name.endswith((".mean", ".max"))]
    plain.sort(key=lambda name: GROUPS.index(group) if (group := name.split(".")[0]) in GROUPS else -1)
    return [(name, [show(name, one[name]) if name in one else "" for one in metrics]) for name in plain]


def show(name: str, value: Any) -> str:
    """A figure as people read it, with its unit if all tasks agree on it: not that of a loss."""
    unit = "mJ" if name.endswith("mj") else UNITS.get(name.split(".", 1)[-1], "")
    if isinstance(value, Mapping):  # mean, deviation and number of runs
        if not value["deviation"]:  # a single run, or a figure that is the same in all
            return show(name, value["mean"])
        text = f"{_number(name, value['mean'])} ± {_number(name, value['deviation'])}"
    else:
        text = _number(name, value)
    return f"{text} {unit}".rstrip()


def _number(name: str, value: float) -> str:
    whole = name.startswith("parameters.") or name.endswith(_WHOLE)
    if whole:
        return f"{value:,.0f}"
    if name.endswith("mj"):
        return f"{value:.3g}"
    return f"{value:.1f}" if name.endswith("seconds") else f"{value:.4f}"


def _pictures(folder: RunFolder, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Picture]:
    history = folder.read_history()
    pictures = _over_lengths({"": metrics})
    sample = folder.read_text(folder.raster_text).strip()
    for stem, title, text in (
        ("learning_curves", "Learning curves", _tell_curves(history, manifest)),
        ("firing_rates", "Firing rate of each layer", _tell_rates(history)),
        (
            "raster",
            "Spikes of one sample",
            "One panel per layer: neurons upwards, tokens or time steps to the right; the larger a spike, the stronger "
            "its shade." + (f" The text: {sample}" if sample else ""),
        ),
        (
            "decays",
            "Decays",
            "Histograms of the share that a channel keeps of its state from step to step: nothing at 0, all at 1.",
        ),
        (
            "decays_over_training",
            "Decays over the training",
            "The same histograms during the training, from bottom to top, optimizer steps to the right; the more "
            "channels, the stronger the shade.",
        ),
    ):
        path = folder.figures / f"{stem}.png"
        if png := folder.read(path):
            pictures.append(Picture(title, _inline(png), text))
    return pictures


def _tell_curves(history: figures.History, manifest: Mapping[str, Any]) -> str:
    parts = []
    for key, name in (("train.loss", "Training loss"), ("validation.loss", "validation loss")):
        steps, values = figures.series(history, key)
        if steps:
            low = min(range(len(values)), key=values.__getitem__)
            parts.append(
                f"{name} from {values[0]:.3f} (step {steps[0]}) to {values[-1]:.3f} (step {steps[-1]}), "
                f"lowest {values[low]:.3f} at step {steps[low]}"
            )
    chosen = manifest.get("chosen_step")
    return "; ".join(parts) + (f". Weights of step {chosen} were taken." if chosen else ".")


def _tell_rates(history: figures.History) -> str:
    steps, values = figures.series(history, "firing_rate.mean")
    layers = (
        {
            key.removeprefix("firing_rate."): rate
            for key, rate in entry.items()
            if key.startswith("firing_rate.") and not key.endswith(".mean") and rate is not None
        }
        for entry in reversed(history)
    )
    rates: dict[str, float] = next(filter(None, layers), {})
    if not steps or not rates:
        return ""
    low, high = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    return (
        f"Mean rate {values[0]:.3f} at step {steps[0]}, {values[-1]:.3f} at step {steps[-1]}. At the end the quietest "
        f"layer is {low} ({rates[low]:.3f}), the busiest {high} ({rates[high]:.3f})."
    )


def _comparison(pages: Sequence[Page]) -> list[Picture]:
    histories = {page.name: page.folder.read_history() for page in pages}
    texts = [f"{name}: {_tell_curves(history, {})}" for name, history in histories.items()]
    curves = _drawn(figures.compared_curves, histories, "Learning curves of all runs", " ".join(texts))
    return curves + _over_lengths({page.name: page.metrics for page in pages})


def _over_lengths(runs: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Bits per character over the length of the window, if the task has measured them."""
    texts = []
    for name, metrics in runs.items():
        lengths, bits = figures.at_lengths(metrics, "bits_per_char")
        if lengths:
            values = ", ".join(f"{value:.3f} at {length:,}" for length, value in zip(lengths, bits, strict=True))
            texts.append(f"{name + ': ' if name else ''}{values} tokens.")
    return _drawn(figures.over_lengths, runs, "Bits per character over the length of the window", " ".join(texts))


def _drawn(draw: Callable[[Any, Path], bool], data: Any, title: str, text: str) -> list[Picture]:
    """The picture that `draw` makes; empty if it has no data."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "picture.png"
        return [Picture(title, _inline(path.read_bytes()), text)] if draw(data, path) else []


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _are_means(figures: Any) -> bool:
    return isinstance(figures, dict) and all(
        isinstance(value, dict)
        and is_figure(value.get("mean"))
        and isinstance(value.get("n"), int)
        and ("deviation" in value and (value["deviation"] is None or is_figure(value["deviation"])))
        for value in figures.values()
    )


def _shared_folder(roots: Sequence[Path]) -> Path:
    """The innermost folder that holds all of these."""
    return Path(os.path.commonpath([root.absolute().parent for root in roots]))
