"""What a run costs and how spiking it is, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sj_lang.errors import UserError
from sj_lang.folder import RunFolder
from sj_lang.manifest import read_json

#: figure -> its name in the legend; the classes of the style sheet are part-0, part-1 ...
PARTS = {"synapses": "products", "neurons": "neurons", "other": "norms, softmax, sums", "memory": "memory"}


class Bar(NamedTuple):
    """A run's energy. parts: (number of the part, share of the widest bar in %)."""

    name: str
    parts: list[tuple[int, float]]
    text: str


class Product(NamedTuple):
    """A row of the table of purity."""

    layer: str
    operation: str
    operands: str
    clean: bool


class Purity(NamedTuple):
    """products: all of them. text: the sentence of the ledger. missing: operations whose cost is
    unknown."""

    products: list[Product]
    text: str
    missing: list[str]


def bars(runs: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    """A bar for each run with a total. A single run gets a second one: its products with floats."""
    energies: dict[str, list[float]] = {}
    for name, metrics in runs.items():
        parts = [metrics.get(f"energy.{part}_mj") for part in PARTS]
        if None not in parts:
            energies[name] = [float(part or 0.0) for part in parts]
            if len(runs) == 1 and metrics.get("energy.mean_spike") and metrics.get("energy.ratio"):
                total = sum(energies[name]) / metrics["energy.ratio"]
                energies["the same with floats, without neurons"] = [0.0] * len(PARTS) + [total]
    widest = max((sum(parts) for parts in energies.values()), default=0.0)
    return [_bar(name, parts, widest) for name, parts in energies.items() if widest]


def _bar(name: str, parts: Sequence[float], widest: float) -> Bar:
    named = [f"{label} {value:.3g}" for label, value in zip(PARTS.values(), parts, strict=False) if value]
    text = f"{sum(parts):.3g} mJ" + (f": {', '.join(named)}" if named else "")
    return Bar(name, [(place, 100 * value / widest) for place, value in enumerate(parts) if value], text)


def purity(folder: RunFolder) -> Purity | None:
    """What each product of the run multiplies, from its ledger; None if it has no ledger. UserError
    if the ledger cannot be read."""
    if not folder.ledger.exists():
        return None
    try:
        content = read_json(folder.ledger)
        products = [
            Product(row["layer"] or "model", row["operation"], row["operands"], not row["macs"])
            for row in content["rows"]
            if row["kind"] == "product"
        ]
        return Purity(products, str(content["purity"]), list(map(str, content["not_counted"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder.ledger}: cannot be read ({error!r}); remove it, or evaluate the run again") from error
