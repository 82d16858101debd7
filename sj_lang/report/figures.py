"""The figures of a run, as PNG files: learning curves, firing rates, the spikes of one sample."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray

History = Sequence[Mapping[str, Any]]

#: Okabe and Ito's colours, which people with any colour vision can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
_MOST_PANELS = 24
_MOST_NEURONS = 128
_MOST_STEPS = 256
_MOST_TOKENS = 64
_FONT = "DejaVu Sans"  # comes with matplotlib
#: how tokens that consist of white space are shown
_SPACES = {" ": "\N{OPEN BOX}", "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


def series(history: History, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one figure in metrics.jsonl."""
    points = [(int(entry["step"]), float(entry[key])) for entry in history if entry.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def learning_curves(history: History, path: Path, *, chosen: int | None = None) -> bool:
    """Draw training and validation loss over steps; returns False if there is no data.

    chosen: the step whose weights were chosen.
    """
    train, validation = series(history, "train.loss"), series(history, "validation.loss")
    if not train[0]:
        return False
    figure, axes = _curves("Learning curves", "loss")
    axes.plot(*train, color=COLOURS[0], linewidth=1.2, label="training (mean since the last point)")
    if validation[0]:
        axes.plot(*validation, color=COLOURS[1], marker="o", markersize=3.5, label="validation")
        if chosen in validation[0]:
            best = validation[1][validation[0].index(chosen)]
            axes.plot([chosen], [best], "o", markersize=10, fillstyle="none", color="black", label="weights taken")
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    _save(figure, path)
    return True


def compared_curves(runs: Mapping[str, History], path: Path) -> bool:
    """One line per run: the validation loss if there is one, else the training loss."""
    key = "validation.loss" if any(series(history, "validation.loss")[0] for history in runs.values()) else "train.loss"
    lines = {name: series(history, key) for name, history in runs.items()}
    if not any(steps for steps, _ in lines.values()):
        return False
    figure, axes = _curves("The runs compared", f"{key.split('.')[0]} loss")
    for index, (name, line) in enumerate(lines.items()):
        marker = "o" if len(line[0]) < 30 else ""
        axes.plot(*line, **_look(index), marker=marker, markersize=3.5, linewidth=1.2, label=name)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    _save(figure, path)
    return True


def length_of(name: str) -> tuple[int, str] | None:
    """N and the figure of "test@N.<figure>"; None for any other name."""
    split, _, figure = name.partition(".")
    length = split.removeprefix("test@")
    return (int(length), figure) if length != split and length.isdigit() else None


def at_lengths(metrics: Mapping[str, Any], figure: str) -> tuple[list[int], list[float]]:
    """Lengths N in ascending order, and the values of "test@N.<figure>"."""
    at = {name: length_of(name) for name in metrics}
    points = sorted((of[0], float(metrics[name])) for name, of in at.items() if of and of[1] == figure)
    return [length for length, _ in points], [value for _, value in points]


def over_lengths(runs: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """Bits per character over the length of the windows. False: no data.

    runs: name -> metrics. A single run also gets those in the first and the last tenth of a window.
    """
    keys = {"bits_per_char": "whole window", "bits_first_tenth": "first tenth", "bits_last_tenth": "last tenth"}
    if len(runs) == 1:
        only = next(iter(runs.values()))
        lines = {label: at_lengths(only, key) for key, label in keys.items()}
    else:
        lines = {name: at_lengths(metrics, "bits_per_char") for name, metrics in runs.items()}
    if not any(lengths for lengths, _ in lines.values()):
        return False
    figure, axes = _curves("Bits per character over the length of the window", "bits per character")
    for index, (label, line) in enumerate(lines.items()):
        axes.plot(*line, **_look(index), marker="o", markersize=3.5, linewidth=1.2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens of a window")
    axes.legend(frameon=False)
    _save(figure, path)
    return True


def firing_rates(history: History, path: Path) -> bool:
    """Firing rate of each layer over the training, a panel per block. False: no data."""
    prefix = "firing_rate."
    keys = dict.fromkeys(key for entry in history for key in entry if key.startswith(prefix))
    names = [key.removeprefix(prefix) for key in keys if key != prefix + "mean"]
    if not names:
        return False
    blocks: dict[str, list[str]] = {}
    for name in names:
        blocks.setdefault(block(name), []).append(name)
    shown = dict(_spread(list(blocks.items()), _MOST_PANELS))
    figure, panels = _panels(len(shown), width=4.2, height=2.9, shared=True)
    legends: dict[tuple[str, ...], list[Any]] = {}
    for axes, (title, members) in zip(panels, shown.items(), strict=True):
        labels = _labels(title, members)
        for index, (name, label) in enumerate(zip(members, labels, strict=True)):
            look = _look(index) if len(members) > 1 else {"color": "black"}
            axes.plot(*series(history, prefix + name), **look, linewidth=1.2, label=label)
        _plain(axes)
        axes.set_title(title if len(members) > 1 else members[0], fontsize=10)
        if len(members) > 1:
            legends.setdefault(tuple(labels), []).append(axes)
    if len(legends) == 1:  # all blocks are built alike
        lines = next(iter(legends.values()))[0].get_lines()
        figure.legend(handles=lines, frameon=False, fontsize=9, loc="outside right center")
    for axes in [axes for alike in legends.values() for axes in alike] if len(legends) > 1 else []:
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.supxlabel("optimizer step", fontsize=10)
    figure.supylabel("firing rate (share of the most possible)", fontsize=10)
    figure.suptitle("Firing rate of each layer" + _omitted(len(blocks), len(shown), "blocks"), fontsize=12)
    figure.axes[0].set_ylim(bottom=0)
    _save(figure, path)
    return True


def raster(spikes: Mapping[str, NDArray[np.generic]], path: Path, tokens: Sequence[str] = ()) -> bool:
    """A panel per layer, neurons over time. spikes: of one sample, layer -> [steps, channels].

    tokens: of the sample; they stand on the axis of layers with as many steps, or a multiple.
    """

    def draw(axes: Any, values: NDArray[np.generic]) -> str:
        picked = np.linspace(0, values.shape[1] - 1, min(values.shape[1], _MOST_NEURONS)).round().astype(int)
        # steps of a token
        each = len(values) // len(tokens) if tokens and len(values) % len(tokens) == 0 else 0
        part = np.asarray(values, dtype=np.float32)[: each * _MOST_TOKENS or _MOST_STEPS, picked]
        if each:
            shown = [_written(token) for token in tokens[:_MOST_TOKENS]]
            turn = 90 if max(map(len, shown)) > 1 else 0
            places = each * np.arange(len(shown)) + (each - 1) / 2
            axes.set_xticks(places, shown, rotation=turn, family=_FONT, parse_math=False)
        largest = max(float(np.abs(part).max(initial=0)), 1.0)
        signed = bool((part < 0).any())
        shade = PowerNorm(0.5, vmin=0, vmax=largest)  # a spike of 1 among 4s is seen too
        colours: Any = (
            {"cmap": "RdGy", "vmin": -largest, "vmax": largest} if signed else {"cmap": "Greys", "norm": shade}
        )
        axes.imshow(part.T, aspect="auto", interpolation="nearest", origin="lower", **colours)
        counts = f" of {values.shape[1]}" if values.shape[1] > _MOST_NEURONS else ""
        sizes = f" (of 1 to {largest:.0f})" if largest > 1 else ""
        if signed:
            sizes = f" (of -{largest:.0f} to {largest:.0f}; red: below 0)"
        return f"{len(picked)}{counts} neurons, {100 * float((part != 0).mean()):.1f} % of steps with a spike{sizes}"

    labels = ("Spikes of one sample", "token" if tokens else "time step", "neuron")
    return _of_layers(
        spikes, draw, path, labels=labels, width=10 if tokens else 4.6, height=1.9 if tokens else 2.6, shared=False
    )


def decays(layers: Mapping[str, NDArray[np.generic]], path: Path) -> bool:
    """A histogram per layer. layers: layer -> its channels' decays, in 0 to 1; False: no data."""

    def draw(axes: Any, values: NDArray[Any]) -> str:
        axes.hist(values, bins=20, range=(0, 1), weights=np.full(len(values), 1 / len(values)), color=COLOURS[0])
        _plain(axes)
        return f"median {np.median(values):.2f}"

    labels = ("Decays", "share that a step keeps", "share of channels")
    return _of_layers(layers, draw, path, labels=labels, width=3.4, height=2.0, shared=True)


def decays_over_training(history: History, path: Path) -> bool:
    """A panel per layer: its histogram of decays at each look, one above the other in a column;
    False: no data."""
    looks = [entry for entry in history if any(key.startswith("decays.") for key in entry)]
    names = dict.fromkeys(key for entry in looks for key in entry if key.startswith("decays."))
    edges = [0, *(entry["step"] for entry in looks)]

    def draw(axes: Any, values: NDArray[Any]) -> str:
        bounds = np.linspace(0, 1, values.shape[1] + 1)
        shares = values / np.maximum(values.sum(1, keepdims=True), 1)
        axes.pcolormesh(edges, bounds, shares.T, cmap="Blues", vmin=0)
        first, last = shares[[0, -1]] @ (bounds[1:] + bounds[:-1]) / 2
        return f"mean {first:.2f} at first, {last:.2f} at last"

    layers = {name.removeprefix("decays."): np.array([entry[name] for entry in looks]) for name in names}
    labels = ("Decays over the training", "optimizer step", "share that a step keeps")
    return _of_layers(layers, draw, path, labels=labels, width=3.4, height=2.0, shared=True)


def _of_layers(
    layers: Mapping[str, NDArray[np.generic]],
    draw: Callable[[Any, NDArray[np.generic]], str],
    path: Path,
    *,
    labels: tuple[str, str, str],
    width: float,
    height: float,
    shared: bool,
) -> bool:
    """A panel per layer, which `draw` fills and gives a second title. labels: title, x, y. False:
    no data."""
    if not layers:
        return False
    shown = _spread(list(layers.items()), _MOST_PANELS)
    figure, panels = _panels(len(shown), width=width, height=height, shared=shared)
    for axes, (name, values) in zip(panels, shown, strict=True):
        axes.set_title(f"{name}\n{draw(axes, values)}", fontsize=9)
        axes.tick_params(labelsize=8)
    title, x, y = labels
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    figure.suptitle(title + _omitted(len(layers), len(shown), "layers"), fontsize=12)
    _save(figure, path)
    return True


def _written(token: str) -> str:
    """A token as a label: white space is seen, and so is where the font lacks a character."""
    glyphs = get_font(findfont(_FONT)).get_charmap()
    text = "".join(_SPACES.get(one, one) for one in (token.strip(" ") or token))
    return "".join(one if ord(one) in glyphs else "\N{WHITE SQUARE}" for one in text)


def block(name: str) -> str:
    """A module path up to its first number, or its parent: "layers.0.mlp.act" -> "layers.0"."""
    words = name.split(".")
    digit = next((place for place, word in enumerate(words) if word.isdigit()), None)
    if digit is not None:
        return ".".join(words[: digit + 1])
    return ".".join(words[:-1]) or name


def _labels(title: str, members: Sequence[str]) -> list[str]:
    """What tells the layers of a block apart: paths below it, without a last word that all have."""
    words = [name.removeprefix(title).lstrip(".").split(".") for name in members]
    if all(len(path) > 1 for path in words) and len({path[-1] for path in words}) == 1:
        words = [path[:-1] for path in words]
    return [".".join(path) for path in words]


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most that many, the first and the last among them, at even distances."""
    if len(items) <= most:
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _omitted(all_of_them: int, shown: int, what: str) -> str:
    return f" ({shown} of {all_of_them} {what})" if shown < all_of_them else ""


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index // len(COLOURS) % len(STYLES)]}


def _curves(title: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="optimizer step", ylabel=ylabel, title=title)
    _plain(axes)
    return figure, axes


def _panels(count: int, *, width: float, height: float, shared: bool) -> tuple[Figure, list[Any]]:
    """Small multiples in rows of at most three. width, height: of one, in inches."""
    columns = 1 if width >= 10 else 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(6.0, width * columns), height * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    return figure, panels[:count]


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110, format="png")
