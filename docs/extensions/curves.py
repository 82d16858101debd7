"""Pictures of docs/firing.md, from the tables that stand beside it."""

import csv
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

TABLE = Path(__file__).parents[1] / "firing_target.csv"


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def firing_target() -> Figure:
    """What a rate costs in loss, and saves in energy, one point for each run."""
    points = [row for row in rows() if row["firing rate"]]
    points.sort(key=lambda row: float(row["firing rate"]))
    rates = [float(row["firing rate"]) for row in points]
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3), layout="constrained")
    for axes, name in zip(panels, ("test loss", "products, uJ"), strict=True):
        values = [float(row[name]) for row in points]
        axes.plot(rates, values, "o-", color="#0072B2")
        for rate, value, row in zip(rates, values, points, strict=True):
            axes.annotate(row["target"], (rate, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel="firing rate", ylabel=name, xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure
