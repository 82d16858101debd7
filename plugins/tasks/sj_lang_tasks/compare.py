"""One table and one figure of neurons that were compared on several tasks.

`python -m sj_lang_tasks.compare RUN...` reads finished runs below the folders of series, such as
`runs/five/all`, prints the table, and writes `neurons.md` and `neurons.png` into the first folder.
The figure has a panel for each task and a point for each neuron: metric against firing rate. Rates
are shares of the most possible, which is four spikes a step for DSN with n = 4 and for neurons in
four sub-steps; the mean spike counts each of them.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from sj_lang.errors import SjLangError, UserError
from sj_lang.folder import RunFolder

#: type of a task -> the figure that it is compared by
METRICS = {
    "image_classification": "test.accuracy",
    "event_classification": "test.accuracy",
    "forecasting": "test.r2",
    "causal_lm": "test.bits_per_char",
    "control": "test.return",
}
SHOWN = {
    "firing_rate.mean": "firing rate",
    "energy.mean_spike": "mean spike",
    "energy.mj": "energy, nJ",
    "energy.neurons_mj": "of neurons, nJ",
    "train.seconds_per_step": "s a step",
    "parameters.total": "parameters",
}
NANO = 1e6  # nJ in a mJ

Points = dict[str, list[float]]


def read(roots: Sequence[Path]) -> dict[str, dict[str, Points]]:
    """Task -> neuron -> figure -> its values, one a seed: the task's of `METRICS`, and of `SHOWN`
    those that it has. A task has the name of the folder above its neurons. UserError if nothing
    is finished."""
    tasks: dict[str, dict[str, Points]] = {}
    for root in roots:
        for path in sorted(root.rglob("recipe.yaml")):
            folder = RunFolder(path.parent)
            recipe = yaml.safe_load(path.read_text("utf-8"))
            metric = METRICS.get(recipe.get("task", {}).get("type", ""))
            if recipe.get("runs") or recipe.get("seeds") or metric is None or not folder.metrics.exists():
                continue
            words = [root.resolve().name, *path.parent.relative_to(root).parts]
            words = [word for word in words if not word.startswith("seed-")]
            if len(words) < 2:
                raise UserError(f"{root} is a single run; expected the folder of a series")
            figures = folder.read_metrics()
            kept = tasks.setdefault(words[-2], {}).setdefault(words[-1], {})
            kept.setdefault(metric, []).append(figures[metric])
            for name in SHOWN:
                if name in figures:
                    kept.setdefault(name, []).append(figures[name] * (NANO if name.endswith("mj") else 1))
    if not tasks:
        raise UserError(f"no finished run below {', '.join(map(str, roots))}")
    return tasks


def table(tasks: Mapping[str, Mapping[str, Points]]) -> str:
    """Markdown: a row for each neuron of each task; means, and one standard error over seeds."""
    lines = [f"| task | neuron | metric | {' | '.join(SHOWN.values())} |", "|---" * (3 + len(SHOWN)) + "|"]
    for task, neurons in tasks.items():
        for neuron, figures in neurons.items():
            cells = [_cell(figures[name]) if name in figures else "" for name in (_metric(figures), *SHOWN)]
            lines.append(f"| {task} | {neuron} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metric(figures: Points) -> str:
    """The name of the task's metric among the figures of a neuron."""
    return next(name for name in figures if name in METRICS.values())


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {_error(values):.2g}" if len(values) > 1 else ""
    return f"{_number(mean(values))}{spread}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def draw(tasks: Mapping[str, Mapping[str, Points]], path: Path) -> None:
    """Metric against firing rate. A neuron has one colour in all panels; an ANN twin, which does
    not fire, is a dashed line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(tasks), 3)
    figure = Figure(figsize=(3.2 * across, 2.8 * math.ceil(len(tasks) / 3) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    firing = sorted({name for neurons in tasks.values() for name in neurons if "firing_rate.mean" in neurons[name]})
    colours = {neuron: f"C{number}" for number, neuron in enumerate(firing)}
    labelled: dict[str, Any] = {}
    for place, (task, neurons) in enumerate(tasks.items()):
        axes = figure.add_subplot(math.ceil(len(tasks) / 3), across, place + 1)
        for neuron, figures in neurons.items():
            rates, values = figures.get("firing_rate.mean"), figures[_metric(figures)]
            if rates is None:
                labelled[neuron] = axes.axhline(mean(values), color="grey", linestyle="--", linewidth=1)
                continue
            labelled[neuron] = axes.errorbar(
                mean(rates), mean(values), xerr=_error(rates), yerr=_error(values), fmt="o", color=colours[neuron]
            )
        metric = _metric(next(iter(neurons.values())))
        better = ", less is better" if metric == "test.bits_per_char" else ""
        axes.set(title=task, xlabel="firing rate", ylabel=metric.removeprefix("test.").replace("_", " ") + better)
    columns = min(len(labelled), 2 * across)
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=columns, fontsize="small")
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sj_lang_tasks.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a series")
    roots: list[Path] = parser.parse_args(words).runs
    try:
        tasks = read(roots)
    except SjLangError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = table(tasks)
    (roots[0] / "neurons.md").write_text(text, encoding="utf-8")
    draw(tasks, roots[0] / "neurons.png")
    print(text)
    print(f"{roots[0] / 'neurons.png'}: metric against firing rate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
