"""One table and one figure of all tasks; the series that five/all runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from sj_lang_tasks import compare
from sj_lang_tasks.data.mackey_glass import DELAYS, MackeyGlass
from sj_lang_tasks.tasks.forecasting import Forecasting

from sj_lang.errors import UserError
from sj_lang.recipe import load

#: run -> that of the same neuron in four sub-steps
IN_FOUR = {"lif": "lif-4", "psn": "psn-4", "sliding-psn": "sliding-psn-4", "dsn-1": "dsn-1-4"}


def write_run(folder: Path, task: str, **figures: float) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"task": {"type": task}}))
    (folder / "metrics.json").write_text(json.dumps({name.replace("__", "."): x for name, x in figures.items()}))


def test_means_and_standard_errors_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in enumerate([0.7, 0.8, 0.9]):
        place = tmp_path / f"all/image/dsn-1/seed-{seed}"
        write_run(place, "image_classification", test__accuracy=accuracy, firing_rate__mean=0.2, energy__mj=2e-6)
    write_run(tmp_path / "all/image/ann", "image_classification", test__accuracy=0.5, parameters__total=7)
    write_run(tmp_path / "all/control/dsn-1", "control", test__return=-150.0, firing_rate__mean=0.1)
    assert compare.main([str(tmp_path / "all")]) == 0
    text = capsys.readouterr().out
    assert "| image | dsn-1 | 0.8 ± 0.058 | 0.2 ± 0 |  | 2 ± 0 |" in text
    assert "| image | ann | 0.5 |  |  |  |  |  | 7 |" in text
    assert "| control | dsn-1 | -150 | 0.1 |" in text
    assert (tmp_path / "all/neurons.md").read_text() in text
    assert (tmp_path / "all/neurons.png").stat().st_size > 1000


def test_a_neuron_has_one_colour_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"test.accuracy": [0.5], "firing_rate.mean": [0.1]}
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    tasks = {"events": {"ann": {"test.accuracy": [0.9]}, "lif": shown, "dsn": shown}, "image": {"dsn": shown}}
    compare.draw(tasks, tmp_path / "neurons.png")
    first, second = drawn[0].axes
    assert first.containers[1].lines[0].get_color() == second.containers[0].lines[0].get_color()
    assert first.containers[0].lines[0].get_color() != first.containers[1].lines[0].get_color()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["ann", "lif", "dsn"]


@pytest.mark.parametrize("panels", [1, 5])
def test_the_names_of_all_neurons_lie_inside_the_figure(
    panels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    names = ["dsn-4", *IN_FOUR, *IN_FOUR.values()]
    neurons = {"ann": {"test.accuracy": [0.9]}}
    neurons |= {name: {"test.accuracy": [0.5], "firing_rate.mean": [0.1]} for name in names}
    compare.draw(dict.fromkeys(map(str, range(panels)), neurons), tmp_path / "neurons.png")
    (figure,) = drawn
    figure.canvas.draw()
    place = figure.legends[0].get_window_extent()
    assert place.x0 >= 0
    assert place.x1 <= figure.bbox.x1
    assert len(figure.legends[0].get_texts()) == 1 + len(names)


def test_a_series_of_one_task_is_called_as_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "pixels/lif", "image_classification", test__accuracy=0.3)
    assert list(compare.read([tmp_path / "pixels"])) == ["pixels"]


def test_what_is_no_series_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no finished run below"):
        compare.read([tmp_path])
    write_run(tmp_path / "one", "control", test__return=1.0)
    assert compare.main([str(tmp_path / "one")]) == 2
    assert "is a single run; expected the folder of a series" in capsys.readouterr().err


def test_five_all_has_a_task_of_each_kind() -> None:
    recipe = load("five/all", ["seeds=null"])
    tasks = {name.split("/")[0]: one.task["type"] for name, one in recipe.runs.items()}
    assert list(tasks) == ["image", "events", "series", "language", "control"]
    assert sorted(tasks.values()) == sorted(compare.METRICS)
    assert len(recipe.runs) == 5 * 10 - 3  # a language model has no PSN, and this one no twin


COMPARED = [
    "image-full",
    "digits",
    "image",
    "events",
    "events-n-mnist",
    "events-cifar10-dvs",
    "events-dvs128",
    "series",
]
COMPARED += ["series-full", "control", "control-full", "control-double-pendulum"]


@pytest.mark.parametrize("name", [*(f"five/{name}" for name in COMPARED), "lm/state-space"])
def test_four_sub_steps_are_those_of_the_same_neuron(name: str) -> None:
    """What counts steps, T and k, counts sub-steps; all else is the same."""
    runs = load(name, ["seeds=null"]).runs
    pairs = {one: four for one, four in IN_FOUR.items() if one in runs}
    assert set(runs) - {"ann", "dsn-4"} == {*pairs, *pairs.values()}
    for one, four in pairs.items():
        inside, wrapper = dict(runs[one].model["neuron"]), dict(runs[four].model["neuron"])
        inside |= {count: 4 * inside[count] for count in ("T", "k") if count in inside and one != "dsn-1"}
        assert wrapper == {"type": "sub_steps", "m": 4, "of": inside}
        assert runs[four].train == runs[one].train


def test_chaotic_series_follow_their_equation_and_need_no_file() -> None:
    table = MackeyGlass().series()
    assert table.values.shape == (4000, len(DELAYS))
    assert table.sha256 == MackeyGlass().series().sha256
    x = table.values
    for column, tau in enumerate(DELAYS):
        now, late = x[tau:-1, column], x[: -tau - 1, column]
        slope = 0.2 * late / (1 + late**10) - 0.1 * now
        assert np.corrcoef(slope, np.diff(x[tau:, column]))[0, 1] > 0.99
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.9
    ready = Forecasting(data="mackey_glass", length=48).prepare(None, seed=0)
    assert ready.model["num_series"] == 3
    with pytest.raises(UserError, match="the source 'digits' has no series"):
        Forecasting(data="digits").prepare(None, seed=0)
