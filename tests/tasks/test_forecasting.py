"""Forecasting: tables, windows, figures computed by hand, the model, and what is refused."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sj_lang_tasks.data import series
from sj_lang_tasks.models.series_spikformer import SeriesSpikformerConfig, SeriesSpikformerForPrediction
from sj_lang_tasks.tasks.forecasting import Forecasting, metrics
from transformers import AutoModelForTimeSeriesPrediction

from sj_lang import run
from sj_lang.energy import ledger
from sj_lang.errors import UserError
from sj_lang.recipe import load
from sj_lang.testing.models import check_task

ROWS = 80
SMALL: dict[str, Any] = {"length": 8, "horizon": 3}


def table(folder: Path, rows: int = ROWS, change: tuple[int, str] | None = None) -> str:
    """A CSV of two waves, an hour a row. change: a line number, and what stands there instead."""
    lines = ["date,slow,fast"]
    for hour in range(rows):
        date = datetime(2020, 1, 1) + timedelta(hours=hour)
        lines.append(f"{date},{np.sin(hour / 6):.4f},{10 + np.sin(hour):.4f}")
    if change is not None:
        lines[change[0] - 1] = change[1]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def build(fields: Any = (), **options: Any) -> SeriesSpikformerForPrediction:
    torch.manual_seed(0)
    sizes = {"num_series": 2, **SMALL, **dict(fields)}
    return SeriesSpikformerForPrediction(SeriesSpikformerConfig(**sizes, hidden_size=8, **options))


def test_the_task_passes_its_kit(tmp_path: Path) -> None:
    place = table(tmp_path)
    make = lambda: Forecasting(data=place, **SMALL)  # noqa: E731
    assert check_task(make, tokenizer=None, model=lambda ready: build(ready.model))


def test_windows_stay_in_their_part_and_look_back_across_its_start(tmp_path: Path) -> None:
    ready = Forecasting(data=table(tmp_path), split=(40, 20, 15), **SMALL).prepare(None, seed=0)
    train, validation, test = ready.train, ready.validation, ready.tests["test"]
    assert validation is not None
    assert (len(train), len(validation), len(test)) == (40 - 8 - 3 + 1, 20 - 3 + 1, 15 - 3 + 1)
    values = train.values
    assert torch.equal(train[0]["past_values"], values[:8])
    assert torch.equal(train[len(train) - 1]["labels"], values[37:40])
    assert torch.equal(validation[0]["past_values"], values[32:40])
    assert torch.equal(validation[0]["labels"], values[40:43])
    assert torch.equal(test[len(test) - 1]["labels"], values[72:75])
    assert values[:40].mean(0).abs().max() < 1e-5
    assert (values[:40].std(0, correction=0) - 1).abs().max() < 1e-4


def test_figures() -> None:
    targets = np.array([[[0.0], [2.0]], [[4.0], [6.0]]])  # [N=2, horizon=2, C=1]
    predicted = np.array([[[1.0], [2.0]], [[4.0], [4.0]]])
    figures = metrics("test", (predicted, targets), None)
    assert figures["mse"] == pytest.approx((1 + 4) / 4)
    assert figures["rse"] == pytest.approx(np.sqrt(5 / (9 + 1 + 1 + 9)))
    assert figures["r2"] == pytest.approx(((1 - 1 / 8) + (1 - 4 / 8)) / 2)


def test_the_baseline_repeats_the_last_value(tmp_path: Path) -> None:
    ready = Forecasting(data=table(tmp_path), **SMALL).prepare(None, seed=0)
    assert ready.baselines is not None
    test = ready.tests["test"]
    errors = [
        (item["labels"] - item["past_values"][-1]).square().mean() for item in (test[i] for i in range(len(test)))
    ]
    assert ready.baselines()["last_value"]["test.mse"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((5, "2020-01-01 02:00:00,1,2"), "line 5: 2020-01-01 02:00:00 is not after 2020-01-01 02:00:00"),
        ((5, "2020-01-01 01:00:00,1,2"), "is not after"),
        ((5, "2020-01-01 03:30:00,1,2"), "comes 1:30:00 after the row before, the others 1:00:00; fill the gap"),
        ((5, "2020-01-01 03:00:00,,2"), "line 5, column slow: no value; fill gaps"),
        ((5, "2020-01-01 03:00:00,1,nan"), "line 5, column fast: 'nan' is no finite number"),
        ((5, "2020-01-01 03:00:00,1"), "line 5: 2 fields, the header has 3"),
        ((5, "yesterday,1,2"), "line 5: 'yesterday' is not a date"),
        ((1, "time,slow,fast"), "expected date, then the names"),
    ],
)
def test_tables_that_are_not_series_are_refused(tmp_path: Path, change: tuple[int, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Forecasting(data=table(tmp_path, change=change), **SMALL).prepare(None, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 90}, "task.horizon is 90, but train has 48 rows after the first task.length=8"),
        ({"horizon": 9}, "task.horizon is 9, but validation has 8 rows"),
        ({"length": 1}, "T = 1 leaves a neuron nothing to remember"),
        ({"horizon": 0}, "task.horizon is 0"),
        ({"split": (0.5, 0.5)}, "expected three shares"),
        ({"split": (60, 20, 20)}, "asks for 100 rows, the table has 80"),
        ({"data": None}, "name a CSV"),
        ({"data": "nowhere.csv"}, "nowhere.csv cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Forecasting(**{"data": table(tmp_path), **SMALL, **options}).prepare(None, seed=0)


def test_a_series_without_a_scale_is_refused(tmp_path: Path) -> None:
    path = Path(table(tmp_path))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row.rpartition(",")[0] + ",5" for row in rows)]))
    with pytest.raises(UserError, match="fast is constant in train"):
        Forecasting(data=str(path), **SMALL).prepare(None, seed=0)


def test_targets_that_never_change_are_left_out_of_r2() -> None:
    targets = np.array([[[0.0, 7.0]], [[2.0, 7.0]]])
    assert metrics("test", (targets + 0.5, targets), None)["r2"] == pytest.approx(1 - 0.5 / 2)
    assert metrics("test", (targets[:, :, 1:], targets[:, :, 1:]), None)["r2"] == 0


def test_dates_with_a_zone_are_read_in_utc(tmp_path: Path) -> None:
    lines = ["date,a", *(f"2020-01-01T0{hour}:00:00+01:00,{hour}" for hour in range(9))]
    (tmp_path / "zone.csv").write_text("\n".join(lines))
    assert series.read(tmp_path / "zone.csv").step == timedelta(hours=1)


@pytest.mark.parametrize("neuron", [{"type": "lif"}, {"type": "psn", "T": 8}, {"type": "dsn", "n": 1}, {"type": "dsn"}])
def test_every_neuron_trains_and_is_stored(neuron: dict[str, Any], tmp_path: Path) -> None:
    model = build(neuron=neuron).train()
    x, labels = torch.randn(4, 8, 2), torch.randn(4, 3, 2)
    model(x, labels).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)
    assert torch.equal(again(x).logits, model(x).logits)


def test_the_twin_and_the_products_of_spikes() -> None:
    model, twin = build().eval(), build(twin=True)
    shapes = {name: p.shape for name, p in model.named_parameters() if ".node." not in name}
    assert {name: p.shape for name, p in twin.named_parameters()} == shapes
    book = ledger(model, {"past_values": torch.randn(1, 8, 2)})
    assert not book.uncounted
    assert len(book.impurities(strict=False)) == 1  # the series themselves


def test_another_length_or_width_is_refused() -> None:
    with pytest.raises(ValueError, match="sees 8 steps, the input has 9"):
        build()(torch.randn(1, 9, 2))
    with pytest.raises(UserError, match="num_attention_heads is 3, it must divide hidden_size 8"):
        build(num_attention_heads=3)


def test_the_recipe_runs(tmp_path: Path) -> None:
    tiny = [f"task.data={table(tmp_path)}", "task.length=8", "task.horizon=3", "task.split=[0.6, 0.2, 0.2]"]
    tiny += ["runs=null", "seeds=null", "model.hidden_size=8", "train.num_train_epochs=1", "train.disable_tqdm=true"]
    run.execute(load("five/series", tiny))
    figures = json.loads(Path("runs/five/series/metrics.json").read_text())
    assert {"test.r2", "test.rse", "baseline.last_value.test.r2", "energy.neurons_mj"} <= set(figures)
    header, *lines = Path("runs/five/series/predictions/test.csv").read_text().splitlines()
    assert header == "slow,fast,slow (true),fast (true)"
    assert len(lines) == 16 - 3 + 1
