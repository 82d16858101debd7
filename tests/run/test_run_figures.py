from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from sj_lang.errors import UserError
from sj_lang.manifest import Manifest, write_json
from sj_lang.report import costs, figures, page, tables
from sj_lang.task import Prepared

pytestmark = pytest.mark.draws


def history(layers: int = 5) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for step in range(10, 101, 10):
        entries.append({"step": step, "train.loss": 2 + math.exp(-step / 30), "firing_rate.mean": 0.2})
        entries[-1] |= {f"firing_rate.model.layers.{i}.mlp.act": 0.1 + i / 50 for i in range(layers)}
        if step % 50 == 0:
            entries.append({"step": step, "validation.loss": 2.1 + math.exp(-step / 30)})
    return entries


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def has_colour(path: Path, colour: str) -> bool:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(image.imread(path)[..., :3] - rgb).max(-1) < 0.02).any())


def test_learning_curves_show_both_losses(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "curves.png"
    assert figures.learning_curves(history(), path, chosen=100)
    assert size(path) == (770, 440)
    assert has_colour(path, figures.COLOURS[0])
    assert has_colour(path, figures.COLOURS[1])


def test_no_data_no_figure(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert not figures.learning_curves([], path)
    assert not figures.firing_rates([{"step": 1, "train.loss": 1.0}], path)
    assert not figures.raster({}, path)
    assert not figures.decays({}, path)
    assert not figures.decays_over_training([{"step": 1, "train.loss": 1.0}], path)
    assert not figures.compared_curves({"a": []}, path)
    assert not path.exists()


def test_figures_over_the_length_of_windows(tmp_path: Path) -> None:
    one = {"test@64.bits_per_char": 2.5, "test@8.bits_per_char": 3.0, "test@8.loss": 2.0, "test.bits_per_char": 2.9}
    assert figures.at_lengths(one, "bits_per_char") == ([8, 64], [3.0, 2.5])
    assert not figures.over_lengths({"": {"test.bits_per_char": 2.9}}, tmp_path / "x.png")
    ends = {"test@8.bits_first_tenth": 3.5, "test@8.bits_last_tenth": 2.0}
    assert figures.over_lengths({"": {**one, **ends}}, tmp_path / "one.png")
    assert figures.over_lengths({"a": one, "b": {}, "c": one}, tmp_path / "several.png")
    for name in ("one", "several"):
        assert size(tmp_path / f"{name}.png") == (770, 440)
        assert has_colour(tmp_path / f"{name}.png", figures.COLOURS[0])


def test_the_report_shows_and_tells_figures_over_lengths(tmp_path: Path) -> None:
    metrics = {"test@8.bits_per_char": 3.0, "test@64.bits_per_char": 2.5, "test@64.bits_last_tenth": 2.0}
    metrics |= {"repeat@64.bits_first": 2.5, "repeat@64.bits_again": 1.25, "repeat@64.loss": 1.3}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", {"name": name, "status": "done"})
        write_json(tmp_path / name / "metrics.json", metrics)
    html = page.write([tmp_path / "a"]).read_text()
    assert "3.000 at 8, 2.500 at 64 tokens." in html
    assert "the test text in windows of 64 tokens, in their last" in html
    assert "bits per character of windows of 64 tokens" in html
    assert "of the same tokens, when the window is read again right after" in html
    assert "1.2500 bits" in html
    assert "a: 3.000 at 8, 2.500 at 64 tokens. b: 3.000" in page.write([tmp_path / "a", tmp_path / "b"]).read_text()


@pytest.mark.parametrize("layers", [1, 4, 5])
def test_firing_rates_have_a_panel_for_each_block_and_no_empty_ones(tmp_path: Path, layers: int) -> None:
    assert figures.firing_rates(history(layers), tmp_path / "rates.png")
    figure, panels = figures._panels(layers, width=4, height=3, shared=True)
    assert len(panels) == layers == sum(axes.get_visible() for axes in figure.axes)


def test_blocks() -> None:
    names = ("model.layers.0.mlp.act", "layers.11.n", "head.neuron", "neuron")
    assert [figures.block(name) for name in names] == ["model.layers.0", "layers.11", "head", "neuron"]


def test_labels_leave_out_what_all_have() -> None:
    assert figures._labels("l.0", ["l.0.q.node", "l.0.mlp.up.node"]) == ["q", "mlp.up"]
    assert figures._labels("l.0", ["l.0.a", "l.0.b.node"]) == ["a", "b.node"]


def test_raster_is_dark_where_there_are_spikes(tmp_path: Path) -> None:
    spikes = np.zeros((20, 500))
    assert figures.raster({"quiet": spikes}, tmp_path / "quiet.png")
    assert figures.raster({"busy": spikes + 1}, tmp_path / "busy.png")
    quiet, busy = (image.imread(tmp_path / name)[..., :3].mean() for name in ("quiet.png", "busy.png"))
    assert quiet > 0.9
    assert busy < 0.5


def test_decays_are_bars_with_their_median(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    assert figures.decays({"a past": np.array([0.1, 0.12, 0.9, 0.91]), "b v": np.ones(1)}, tmp_path / "decays.png")
    assert has_colour(tmp_path / "decays.png", figures.COLOURS[0])
    first, second = drawn[0].axes
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in first.patches if bar.get_height()}
    assert heights == {0.1: 0.5, 0.9: 0.5}
    assert [axes.get_title() for axes in (first, second)] == ["a past\nmedian 0.51", "b v\nmedian 1.00"]


def test_decays_over_the_training_are_columns_of_shades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    low, high = [4, *[0] * 19], [*[0] * 19, 4]
    entries = [{"step": 10, "decays.a past": low}, {"step": 15, "train.loss": 1.0}, {"step": 20, "decays.a past": high}]
    assert figures.decays_over_training(entries, tmp_path / "d.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "a past\nmean 0.03 at first, 0.98 at last"
    shares = axes.collections[0].get_array().reshape(20, 2)
    assert (shares[0].tolist(), shares[19].tolist()) == ([1, 0], [0, 1])


@pytest.mark.parametrize("each", [1, 4])
def test_tokens_stand_on_the_axis_of_the_raster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int) -> None:
    drawn: list[Any] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    tokens = ["$a$", " ", "\n", " the", "\u4e2d"]
    layers = {"layer": np.ones((5 * each, 3)), "pooled": np.ones((7, 3))}
    assert figures.raster(layers, tmp_path / "raster.png", tokens)
    first, pooled = drawn[0].axes
    assert [label.get_text() for label in first.get_xticklabels()] == ["$a$", "\u2423", "\u21b5", "the", "\u25a1"]
    assert first.get_xticks().tolist() == [each * place + (each - 1) / 2 for place in range(5)]
    assert "the" not in [label.get_text() for label in pooled.get_xticklabels()]


def test_many_layers_are_thinned_and_it_is_said() -> None:
    assert figures._spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert figures._omitted(100, 24, "layers") == " (24 of 100 layers)"
    assert figures._omitted(3, 3, "layers") == ""


def test_compared_curves(tmp_path: Path) -> None:
    assert figures.compared_curves({"a": history(), "b": history()}, tmp_path / "c.png")
    assert has_colour(tmp_path / "c.png", figures.COLOURS[1])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test.loss", 1.87654, "1.8765"),
        ("train.tokens_per_second", 12345.6, "12,346 tokens/s"),
        ("test.perplexity_per_word", 11503.24, "11503.2"),
        ("parameters.total", 849_920, "849,920"),
        ("train.seconds", 61.23, "61.2 s"),
        ("firing_rate.mean", 0.12345, "0.1235"),
        ("test.loss", {"mean": 1.9, "deviation": 0.01, "n": 3}, "1.9000 ± 0.0100"),
        ("test.loss", {"mean": 1.9, "deviation": None, "n": 1}, "1.9000"),
        ("test.bits_per_char", {"mean": 1.9, "deviation": None, "n": 1}, "1.9000 bits"),
        ("parameters.total", {"mean": 5.0, "deviation": 0.0, "n": 3}, "5"),
    ],
)
def test_figures_are_shown_with_their_units(name: str, value: Any, text: str) -> None:
    assert tables.show(name, value) == text


def test_rows_are_ordered_and_layers_left_out() -> None:
    metrics = {"dead.mean": 0.1, "firing_rate.x": 0.1, "train.loss": 1.0, "test.loss": 1.0, "validation.loss": 1.0}
    rows = tables.metric_rows([metrics, {"test.loss": 2.0, "test.accuracy": 0.5}])
    assert [name for name, _ in rows] == ["test.loss", "test.accuracy", "validation.loss", "train.loss", "dead.mean"]
    assert rows[1] == ("test.accuracy", ["", "0.5000"])


def test_a_loss_is_what_its_task_says(tmp_path: Path) -> None:
    for name, more in (("a", {"loss": "mean A, in nats"}), ("b", {"loss": "mean B"}), ("old", {})):
        folder = tmp_path / name
        folder.mkdir()
        Manifest.start(folder / "manifest.json", name=name, notes=[], machine={}, data={}, recipe={}, **more).write()
        write_json(folder / "metrics.json", {"test.loss": 1.0, "train.loss": 2.0})
    html = page.write([tmp_path / "a"]).read_text()
    assert "<small>mean A, in nats</small>" in html
    assert "<small>what the training minimises, mean over the last steps" in html
    html = page.write([tmp_path / name for name in ("a", "b", "old")]).read_text()
    both = "mean A, in nats; or, of other tasks here: mean B"
    assert f"{both}; or, of other tasks here: {Prepared.loss}</small>" in html


ENERGY = {"energy.synapses_mj": 1.0, "energy.neurons_mj": 0.5, "energy.other_mj": 0.0, "energy.memory_mj": 2.5}


def test_bars_of_energy_have_the_same_scale() -> None:
    twin = ENERGY | {"energy.synapses_mj": 5.0, "energy.neurons_mj": 0.0}
    spiking, ann = costs.bars({"spiking": ENERGY, "ann": twin, "closed": {"energy.synapses_mj": 9.0}})
    assert ann.parts == [(0, pytest.approx(100 * 5 / 7.5)), (3, pytest.approx(100 * 2.5 / 7.5))]
    assert spiking.parts[0] == (0, pytest.approx(100 / 7.5))
    assert spiking.text == "4 mJ: products 1, neurons 0.5, memory 2.5"
    _, floats = costs.bars({"one": ENERGY | {"energy.mean_spike": 0.2, "energy.ratio": 0.5}})
    assert floats.text == "8 mJ"
    assert not costs.bars({"one": {}})


def test_the_page_shows_energy_and_purity(tmp_path: Path) -> None:
    row = {"layer": "up", "operation": "addmm", "kind": "product", "operands": "float x weights", "macs": 5}
    for name, length in {"a": 64, "b": 128}.items():
        (tmp_path / name).mkdir()
        recipe = {"task": {"type": "causal_lm", "length": length}}
        manifest = {"name": name, "status": "done", "started": "today", "recipe": recipe}
        write_json(tmp_path / name / "manifest.json", manifest)
        write_json(tmp_path / name / "metrics.json", ENERGY)
        book = {"purity": "0 of 1 products take spikes", "not_counted": ["x: fft"], "rows": [row]}
        write_json(tmp_path / name / "ledger.json", book)
    html = page.write([tmp_path / "a", tmp_path / "b"]).read_text("utf-8")
    assert 'aria-label="a: 4 mJ: products 1, neurons 0.5, memory 2.5"' in html
    assert "These runs differ in their tasks" in html
    assert "<td>float x weights</td><td>no</td>" in html
    assert "Not counted: x: fft" in html
    assert "These runs differ" not in page.write([tmp_path / "a"]).read_text("utf-8")
    write_json(tmp_path / "a" / "ledger.json", {"rows": 5})
    with pytest.raises(UserError, match=r"ledger.json: cannot be read"):
        page.write([tmp_path / "a"])


def test_runs_of_different_tasks_are_refused_unless_one_series_holds_them(tmp_path: Path) -> None:
    inner = {"type": "glue", "name": "sst2"}
    tasks = {"a": {"type": "causal_lm"}, "b": inner, "c": {"type": "distillation", "task": inner}, "d": inner}
    for name, task in tasks.items():
        (tmp_path / name).mkdir()
        manifest = {"name": name, "status": "done", "started": "today", "recipe": {"task": task}}
        write_json(tmp_path / name / "manifest.json", manifest)
        write_json(tmp_path / name / "metrics.json", {"test.loss": 1.0})
    message = r"different tasks cannot be compared \(causal_lm: a; glue sst2: b\)"
    with pytest.raises(UserError, match=message):
        page.write([tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "report.html").exists()
    assert page.write([tmp_path / name for name in ("b", "c", "d")]).is_file()
    write_json(tmp_path / "manifest.json", {"name": "all", "status": "done", "started": "x", "children": ["a", "b"]})
    assert page.write([tmp_path]).is_file()
