"""Predict the next steps of several series from the last ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared, Task
from sj_lang_tasks.data import series

PARTS = ("train", "validation", "test")


class Forecasting(Task):
    """Predict `horizon` steps of all series of a table from the `length` steps before them.

    data: a CSV as ETT's: a column `date`, which grows by the same step, and a column of numbers for
        each series; or a registered source with series (`mackey_glass`).
    length: L, steps that the model sees.
    horizon: steps that it predicts.
    split: train, validation and test, in this order: shares that add up to 1, or numbers of rows;
        rows after their sum are not used. Targets lie within their part; the steps before them
        may reach into the part before.

    Series are shifted and scaled to mean 0 and deviation 1 on train, and so are all figures: `loss`
    and `mse`, the mean squared error; `rse`, its root over that of a prediction of the mean of all
    targets (0 is perfect, 1 is that mean); `r2`, for each series and step ahead 1 - squared errors
    / squared deviations from the mean of that step's targets, and then the mean, without targets
    that are all equal. The baseline `last_value` predicts that nothing changes.
    """

    auto_class = "AutoModelForTimeSeriesPrediction"
    causal = False
    pads = False
    tokenizes = False

    def __init__(
        self,
        *,
        data: Data | None = None,
        length: int = 168,
        horizon: int = 24,
        split: tuple[float, ...] = (0.7, 0.1, 0.2),
    ) -> None:
        if length < 2:
            raise UserError(f"task.length is {length}; T = 1 leaves a neuron nothing to remember, expected 2 or more")
        if horizon < 1:
            raise UserError(f"task.horizon is {horizon}; expected 1 or more")
        if len(split) != 3 or min(split) <= 0 or (min(split) < 1 and abs(sum(split) - 1) > 1e-6):
            raise UserError(
                f"task.split is {list(split)}; expected three shares that add up to 1, or three numbers of rows"
            )
        self.data: Any = data
        self.length, self.horizon, self.split = length, horizon, split

    def prepare(self, tokenizer: MakeTokenizer | None, *, seed: int) -> Prepared:
        """Read, cut and scale. seed: not needed, as cuts are the same for every seed."""
        if not isinstance(self.data, str):
            raise UserError(
                "task.data: name a CSV with a column date and one for each series, e.g. task.data=ETTh1.csv"
            )
        table = series.of(self.data)
        ends = self._ends(len(table.values))
        first = table.values[: ends[0]]
        flat = [name for name, low, high in zip(table.names, first.min(0), first.max(0), strict=True) if low == high]
        if flat:
            raise UserError(f"task.data: {self.data}: {flat[0]} is constant in train, so it has no scale; leave it out")
        scaled = ((table.values - first.mean(0)) / first.std(0)).astype(np.float32)
        starts = (self.length, *ends[:-1])
        parts = {
            name: SeriesWindows(torch.from_numpy(scaled), start, end, self.length, self.horizon)
            for name, start, end in zip(PARTS, starts, ends, strict=True)
        }
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
        return Prepared(
            train=parts["train"],
            validation=parts["validation"],
            tests={"test": parts["test"]},
            reduce=lambda outputs, labels: (outputs.float(), labels),
            metrics=metrics,
            label_names=["labels"],
            model={**self.outline(), "num_series": len(table.names)},
            predictions=lambda split, reduced, labels: {f"{split}.csv": _written(table.names, reduced[0], labels)},
            baselines=lambda: {"last_value": self._last_value(parts)},
            loss="mean squared error of the scaled series",
            fingerprint={"data": self.data, "rows": len(table.values), "sha256": table.sha256},
            notes=[f"{len(table.names)} series in steps of {table.step}; windows: {sizes}"],
        )

    def outline(self) -> Mapping[str, Any]:
        return {"length": self.length, "horizon": self.horizon}

    def _ends(self, rows: int) -> list[int]:
        """Where the parts end. Each holds a window, and train its past too."""
        counts = [share * rows if min(self.split) < 1 else share for share in self.split]
        ends = [int(end + 1e-6) for end in np.cumsum(counts)]
        if ends[-1] > rows:
            raise UserError(f"task.split asks for {ends[-1]:,} rows, the table has {rows:,}")
        for name, start, end in zip(PARTS, (self.length, *ends[:-1]), ends, strict=True):
            if end - start < self.horizon:
                past = f" after the first task.length={self.length}" if name == "train" else ""
                raise UserError(
                    f"task.horizon is {self.horizon}, but {name} has {max(0, end - start)} rows{past}; "
                    "lower it, or take a longer series"
                )
        return ends

    def _last_value(self, parts: Mapping[str, "SeriesWindows"]) -> dict[str, float]:
        part = parts["test"]
        items = [part[index] for index in range(len(part))]
        targets = np.stack([item["labels"].numpy() for item in items])
        last = np.stack([item["past_values"][-1:].numpy() for item in items])
        figures = metrics("test", (np.broadcast_to(last, targets.shape), targets), targets)
        return {f"test.{name}": value for name, value in figures.items()}


class SeriesWindows:
    """Items `{"past_values": [L, C], "labels": [horizon, C]}`: every window whose targets lie in
    rows start to end."""

    def __init__(self, values: Tensor, start: int, end: int, length: int, horizon: int) -> None:
        self.values, self.start, self.length, self.horizon = values, start, length, horizon
        self.count = end - start - horizon + 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"window {index} of {self.count}")
        now = self.start + index
        return {"past_values": self.values[now - self.length : now], "labels": self.values[now : now + self.horizon]}


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split. reduced: predictions and targets, `[N, horizon, C]` each."""
    predicted, targets = (np.asarray(part, dtype=np.float64) for part in reduced)
    errors = np.square(targets - predicted)
    deviations = np.square(targets - targets.mean())
    by_step = np.square(targets - targets.mean(0))
    mse = float(errors.mean())
    moving = by_step.sum(0) > 0
    r2 = 1 - errors.sum(0)[moving] / by_step.sum(0)[moving]
    return {
        "loss": mse,
        "mse": mse,
        "rse": float(np.sqrt(errors.sum() / max(deviations.sum(), 1e-12))),
        "r2": float(r2.mean()) if moving.any() else 0.0,
    }


def _written(names: Sequence[str], predicted: Any, targets: Any) -> str:
    """The last step ahead of each window, predicted and true, one line a window."""
    header = ",".join([*names, *(f"{name} (true)" for name in names)])
    rows = np.concatenate([predicted[:, -1], targets[:, -1]], 1)
    return "\n".join([header, *(",".join(f"{value:.6g}" for value in row) for row in rows)]) + "\n"
