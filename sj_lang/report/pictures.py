"""The pictures on a page, each with a text for those who cannot see it."""

import base64
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sj_lang.folder import RunFolder
from sj_lang.report import figures


class Picture(NamedTuple):
    title: str
    source: str  # data URI
    text: str  # what the figure shows, for those who cannot see it


def of_run(folder: RunFolder, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Picture]:
    """The stored figures of a run, and its bits over lengths."""
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


def compared(runs: Mapping[str, tuple[RunFolder, Mapping[str, Any]]]) -> list[Picture]:
    """Learning curves and bits over lengths of several runs: name -> folder and metrics."""
    histories = {name: folder.read_history() for name, (folder, _) in runs.items()}
    texts = [f"{name}: {_tell_curves(history, {})}" for name, history in histories.items()]
    curves = _drawn(figures.compared_curves, histories, "Learning curves of all runs", " ".join(texts))
    return curves + _over_lengths({name: metrics for name, (_, metrics) in runs.items()})


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
