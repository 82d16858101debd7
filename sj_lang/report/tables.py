"""The tables of figures on a page: names, order, units and explanations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sj_lang.folder import is_figure
from sj_lang.manifest import LOSS

#: order of a table, by the first word of a figure's name; test splits come before these
GROUPS = (
    *("ablation", "baseline", "validation", "train", "parameters"),
    *("firing_rate", "dead", "saturated", "longest_run", "energy"),
)
LAYERED = ("firing_rate.", "dead.", "saturated.", "longest_run.")

_WHOLE = ("steps", "tokens_per_second", ".macs", ".accumulations", ".other", "_bytes", "longest_run.max")
UNITS = {
    **{"seconds": "s", "seconds_per_step": "s", "tokens_per_second": "tokens/s"},
    **dict.fromkeys(("bits_per_char", "bits_first", "bits_again"), "bits"),
}

EXPLAINED = {
    "test.bits_per_char": "bits that the model needs for a character of the test text",
    "test.perplexity_per_word": "exp of the nats that the model needs for a word of the test text",
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


class FigureTable(NamedTuple):
    """Figures of several columns; a row is (name, one text per column)."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]]


def tables(metrics: Mapping[str, Mapping[str, Any]], means: Mapping[str, Mapping[str, Any]]) -> list[FigureTable]:
    """metrics: of each run, by its name. means: run -> its figures over several seeds, if any."""
    shown = []
    averages = {run: figures for run, figures in means.items() if run.partition("/")[0] == "average"}
    if averages:
        columns = [run.partition("/")[2] or "all runs" for run in averages]
        shown.append(FigureTable("Averages", columns, metric_rows(list(averages.values()))))
    means = {run: figures for run, figures in means.items() if run not in averages}
    counts = {run: max(value["n"] for value in figures.values()) for run, figures in means.items()}
    if any(n > 1 for n in counts.values()):
        columns = [f"{run}, mean of {n} runs" for run, n in counts.items()]
        title = "Means, with the deviation between runs (sample standard deviation)"
        shown.append(FigureTable(title, columns, metric_rows(list(means.values()))))
    columns = list(metrics) if len(metrics) > 1 else ["value"]
    return [*shown, FigureTable("Figures", columns, metric_rows(list(metrics.values())))]


def explained(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, str]:
    """Name of a figure -> what it is. runs: the manifest and the metrics of each."""
    return EXPLAINED | _losses(runs) | _lengths([metrics for _, metrics in runs])


def _losses(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, str]:
    """The explanation of each split's loss, by the runs' tasks."""
    explanations: dict[str, dict[str, None]] = {}
    for manifest, metrics in runs:
        for name in metrics:
            if name.endswith(".loss") and not name.startswith(("train.", "ablation.")):
                explanations.setdefault(name, {})[manifest.get("loss", LOSS)] = None
    return {name: "; or, of other tasks here: ".join(texts) for name, texts in explanations.items()}


def _lengths(metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The explanation of figures at a length, "test@N.<figure>" and "repeat@N.<figure>"."""
    windows = "the test text in windows of {} tokens"
    texts = {
        ("test", "bits_first_tenth"): f"{windows}, bits per character in their first tenth",
        ("test", "bits_last_tenth"): f"{windows}, in their last tenth",
        ("repeat", "bits_first"): "bits per character of windows of {} tokens",
        ("repeat", "bits_again"): "of the same tokens, when the window is read again right after",
    }
    explained = {}
    for name in dict.fromkeys(name for one in metrics for name in one):
        split, _, figure = name.partition(".")
        kind, _, length = split.partition("@")
        text = texts.get((kind, figure), windows if kind == "test" else "")
        if length.isdigit() and text:
            explained[name] = text.format(length)
    return explained


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
    if name.endswith("perplexity_per_word"):
        return f"{value:.6g}"
    return f"{value:.1f}" if name.endswith("seconds") else f"{value:.4f}"


def are_means(figures: Any) -> bool:
    """Whether these are a run's means over seeds, as metrics.json of a series has them."""
    return isinstance(figures, dict) and all(
        isinstance(value, dict)
        and is_figure(value.get("mean"))
        and isinstance(value.get("n"), int)
        and ("deviation" in value and (value["deviation"] is None or is_figure(value["deviation"])))
        for value in figures.values()
    )
