"""What a forward pass costs: `ledger` returns it row by row, `energy` as figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.energy.costs import TABLES, Costs, cost_table
from sj_lang.energy.operators import NOT_SPIKING
from sj_lang.energy.recording import Recording
from sj_lang.energy.rows import COLUMNS, Row
from sj_lang.errors import UserError
from sj_lang.monitor import undisturbed

reset_net: Any = spikingjelly("functional").reset_net
Samples = Tensor | Mapping[str, Any] | tuple[Any, ...] | Iterable[Any]


@dataclass(kw_only=True)
class Ledger:
    """Rows, summed over `passes`, and prices. uncounted: operations whose cost is unknown.

    closed: whether there may be products among these.
    """

    rows: list[Row]
    uncounted: list[str]
    closed: bool
    passes: int
    costs: Costs

    def unpriced(self) -> list[str]:
        """Operations that the cost table has no price for."""
        rows = [row for row in self.rows if row.compute(self.costs) is None]
        return [
            f"{row.layer or 'model'}: {row.operation} ({row.operands_text or row.kind}), has no price" for row in rows
        ]

    def figures(self) -> dict[str, float]:
        """The figures that `energy` describes."""
        if not self.passes or self.closed:
            return {}
        kinds = {kind: [row for row in self.rows if row.kind == kind] for kind in ("product", "neuron", "other")}
        figures: dict[str, float] = {}
        priced = {kind: self._millijoules(row.compute(self.costs) for row in rows) for kind, rows in kinds.items()}
        memory = self._millijoules(row.memory(self.costs) for row in self.rows)
        compute = [priced["product"], None if self.uncounted else priced["neuron"]]
        prices = {
            "energy.mj": _total(*compute),
            "energy.synapses_mj": priced["product"],
            "energy.neurons_mj": compute[1],
            "energy.other_mj": None if self.uncounted else priced["other"],
            "energy.memory_mj": memory,
            "energy.total_mj": None if self.uncounted else _total(*compute, priced["other"], memory),
        }
        figures |= {name: value for name, value in prices.items() if value is not None}
        figures |= {
            "energy.macs": self._mean(row.macs for row in kinds["product"]),
            "energy.accumulations": self._mean(row.accumulations for row in kinds["product"]),
            "energy.other": self._mean(row.others for row in kinds["other"]),
            **{f"energy.{column}_bytes": self._mean(row.bytes(column) for row in self.rows) for column in COLUMNS},
        }
        return figures | (self._crossover() if "energy.total_mj" in figures else {})

    def _crossover(self) -> dict[str, float]:
        """Against the same products with floats: the ratio, and the mean spike at which it is 1."""
        twin = self._millijoules(row.twin(self.costs) for row in self.rows)
        total = self._millijoules(
            part for row in self.rows for part in (row.compute(self.costs), row.memory(self.costs))
        )
        if twin is None or total is None or not twin:
            return {}
        figures = {"energy.ratio": total / twin}
        terms = self._mean(row.spiking_terms for row in self.rows)
        if terms:
            units = self._mean(row.accumulations for row in self.rows if row.kind == "product")
            price = 1e-9 * (self.costs.accumulation or 0.0)
            figures["energy.mean_spike"] = units / terms
            figures["energy.crossover"] = (twin - (total - units * price)) / (terms * price)
        return figures

    def impurities(self, *, strict: bool = True) -> list[str]:
        """What is not made of spikes: products of floats, and if `strict`, the norms and
        activations that no Linear layer absorbs."""
        impurities = []
        for row in self.rows:
            if row.kind == "product" and row.macs:
                impurities.append(f"{row.layer or 'model'}: {row.operation} multiplies {row.operands_text}")
            elif strict and row.kind == "other" and row.operation in NOT_SPIKING:
                impurities.append(f"{row.layer or 'model'}: {row.operation} between spikes")
        return impurities

    def purity(self) -> str:
        """One sentence on the products, and one on norms and activations."""
        products = [row for row in self.rows if row.kind == "product"]
        floats = [row for row in products if row.macs]
        names = sorted({row.operation for row in self.rows if row.kind == "other" and row.operation in NOT_SPIKING})
        between = f"; between them: {', '.join(names)}" if names else "; no norm or activation between them"
        return f"{len(products) - len(floats)} of {len(products)} products take spikes{between}"

    def content(self) -> dict[str, Any]:
        """Everything as plain values, averaged over the passes."""
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            counts: dict[str, float | None] = {"macs": row.macs, "accumulations": row.accumulations}
            counts |= {"other": row.others, "memory_pj": row.memory(self.costs), "compute_pj": row.compute(self.costs)}
            counts |= {f"{column}_bytes": row.bytes(column) for column in COLUMNS}
            means = {name: None if count is None else count / self.passes for name, count in counts.items()}
            names = {"layer": row.layer, "operation": row.operation, "kind": row.kind, "operands": row.operands_text}
            rows.append({**names, **means})
        missing = [*self.uncounted, *self.unpriced()]
        return {"costs": self.costs.source, "purity": self.purity(), "not_counted": missing, "rows": rows}

    def _mean(self, values: Iterable[float]) -> float:
        return sum(values) / self.passes

    def _millijoules(self, picojoules: Iterable[float | None]) -> float | None:
        values = list(picojoules)
        return None if None in values else 1e-9 * self._mean(value for value in values if value is not None)

    def __str__(self) -> str:
        head = ["layer", "operation", "operands", "MACs", "accumulations", "other", *COLUMNS, "pJ", "pJ memory"]
        lines = [head]
        for row in self.rows:
            compute = row.compute(self.costs)
            counts = [row.macs, row.accumulations, row.others, *(row.bytes(column) for column in COLUMNS)]
            cells = [f"{count / self.passes:,.0f}" for count in counts]
            prices = ["no price" if compute is None else compute / self.passes, row.memory(self.costs) / self.passes]
            cells += [price if isinstance(price, str) else f"{price:,.0f}" for price in prices]
            lines.append([row.layer or "model", row.operation, row.operands_text, *cells])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        figures = [f"{name}: {value:.6g}" for name, value in self.figures().items()]
        missing = [f"not counted: {text}" for text in [*self.uncounted, *self.unpriced()]]
        return "\n".join([line.rstrip() for line in table] + figures + missing + [self.purity()])


def ledger(model: nn.Module, samples: Samples, *, costs: str | Mapping[str, Any] = "45nm") -> Ledger:
    """What a forward pass does and costs, averaged over `samples`.

    samples: a batch, which is a tensor, a tuple of arguments or a dict of named ones; or an
    iterable of these. Each pass runs in evaluation mode from reset neurons; afterwards the model's
    mode and the random numbers are as before, and the neurons' memories reset. costs: the name of a
    table, or a table of your own. UserError for a batch of padding.
    """
    table, passes, recording = cost_table(costs), 0, Recording(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of torch's own encoder
    try:
        with undisturbed(model), recording:
            for sample in [samples] if isinstance(samples, Tensor | Mapping | tuple) else samples:
                reset_net(net=model)
                _run(model, sample)
                passes += 1
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        reset_net(net=model)
    rows, uncounted = list(recording.rows.values()), list(recording.uncounted)
    return Ledger(rows=rows, uncounted=uncounted, closed=recording.closed, passes=passes, costs=table)


def _run(model: nn.Module, sample: Any) -> None:
    if isinstance(sample, Mapping):
        mask = sample.get("attention_mask")
        if isinstance(mask, Tensor) and not bool(mask.any()):
            raise UserError("energy: the batch holds padding only (attention_mask is 0 everywhere); give it a token")
        model(**sample)
    else:
        model(*(sample if isinstance(sample, tuple) else (sample,)))


def energy(model: nn.Module, samples: Samples, *, costs: str | Mapping[str, Any] = "45nm") -> dict[str, float]:
    """The figures of `ledger`, with the same arguments: mJ, operations and bytes of one pass.

    energy.mj: synapses and neurons. energy.synapses_mj: matrix products and convolutions, which is
    what papers state. energy.neurons_mj: the arithmetic of the neurons, as they declare it.
    energy.other_mj: norms, softmax, activations, sums. energy.memory_mj: all bytes moved.
    energy.total_mj: all of these. energy.macs, energy.accumulations: of the synapses. energy.other:
    operations of the rest. energy.weights_bytes, energy.states_bytes, energy.activations_bytes: the
    bytes moved. energy.ratio: the total over that of the same products with floats and no neurons.
    energy.mean_spike: accumulations for each multiplication spared. energy.crossover: the mean
    spike at which the ratio would be 1.

    Figures that contain an operation whose cost is unknown, or which has no price, are missing.
    Empty without samples, and for a model with products that cannot be counted (torch's LSTM and
    GRU, bilinear layers, sparse matrices).
    """
    return ledger(model, samples, costs=costs).figures()


def millijoules(macs: float, accumulations: float) -> float:
    """Energy at 45 nm."""
    costs = TABLES["45nm"]
    return ((costs.mac or 0.0) * macs + (costs.accumulation or 0.0) * accumulations) * 1e-9


def _total(*parts: float | None) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)
