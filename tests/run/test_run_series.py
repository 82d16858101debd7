"""A recipe of several runs: one folder each, one table for all."""

from __future__ import annotations

import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from tiny import StopAt, write_recipe
from tiny_task import TinyText, Windows

from sj_lang import run
from sj_lang.errors import Interrupted, RunFailed, Unreachable, UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.report import figures
from sj_lang.run import series

TWO = """\
runs:
  spiking: {}
  ann: {model: {twin: true}}
"""
SHORT = ["train.max_steps=2", "train.eval_steps=2", "output=s"]


def test_grouping_by_run() -> None:
    assert series.grouped(["a", "b"], "x") == {"a": ["a"], "b": ["b"]}
    assert series.grouped(["seed-1", "seed-2"], "x") == {"x": ["seed-1", "seed-2"]}
    assert series.grouped(["a/seed-1", "b/seed-1", "a/seed-2"], "x") == {
        "a": ["a/seed-1", "a/seed-2"],
        "b": ["b/seed-1"],
    }


def test_summary_has_mean_deviation_and_number() -> None:
    summary = series.summary([{"loss": 1.0, "only": 3.0}, {"loss": 2.0}, {"loss": 4.0}])
    assert summary == {
        "loss": {"mean": pytest.approx(7 / 3), "deviation": pytest.approx(statistics.stdev([1, 2, 4])), "n": 3}
    }
    assert series.summary([{"loss": 1.0}])["loss"] == {"mean": 1.0, "deviation": None, "n": 1}


def test_runs_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.execute(load(write_recipe(tmp_path, TWO + "seeds: [1, 2]\n"), SHORT)) == 0
    out = capsys.readouterr().out
    metrics = read_json(tmp_path / "s/metrics.json")
    assert list(metrics) == ["spiking", "ann"]
    losses = [read_json(tmp_path / f"s/spiking/seed-{n}/metrics.json")["test.loss"] for n in (1, 2)]
    assert losses[0] != losses[1]
    assert metrics["spiking"]["test.loss"] == {
        "mean": pytest.approx(statistics.fmean(losses)), "deviation": pytest.approx(statistics.stdev(losses)), "n": 2,
    }  # fmt: skip
    assert "firing_rate.mean" not in metrics["ann"]
    manifest = read_json(tmp_path / "s/manifest.json")
    assert manifest["status"] == "done"
    assert manifest["children"] == ["spiking/seed-1", "spiking/seed-2", "ann/seed-1", "ann/seed-2"]
    last = out[out.rindex("spiking wrote:") :]
    for expected in ("spiking  ", "ann", "test.loss", "±", "parameters.neurons", "ann wrote:\n  | a b c"):
        assert expected in last
    page = (tmp_path / "s/report.html").read_text()
    assert page.count("<h2>") == 2 + 1 + 4  # means, energy, runs
    assert page.count("mean of 2 runs") == 2
    assert page.index("spiking/seed-1") < page.index("ann/seed-1")
    with pytest.raises(UserError, match="is a series; name one of its runs: s/spiking/seed-1, "):
        run.evaluate("s")
    with pytest.raises(UserError, match=r"model\.init_from: s is a series; name one of its runs: s/spiking/seed-1, "):
        run.execute(load("s/recipe.yaml", ["output=t", "model.init_from=s"]), dry_run=True)
    assert run.execute(load("s/recipe.yaml"), resume="s") == 0


def test_averages_over_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text(Path(write_recipe(tmp_path, TWO)).read_text(encoding="utf-8"))
    (tmp_path / "two.yaml").write_text((tmp_path / "one.yaml").read_text().replace("tiny/test", "tiny/other"))
    parent = "recipe: 1\nname: both\nseeds: [1, 2]\nruns: [one.yaml, two.yaml]\n"
    parent += "averages:\n  nats: {one: test.loss, two: [test.loss, dev.loss]}\n"
    (tmp_path / "both.yaml").write_text(parent)
    changes = [change for change in SHORT if not change.startswith("output")]
    assert run.execute(load("both.yaml", [*changes, "output=s"])) == 0
    metrics = read_json(tmp_path / "s/metrics.json")
    assert list(metrics)[-2:] == ["average/spiking", "average/ann"]
    losses = [
        statistics.fmean(
            read_json(tmp_path / f"s/{one}/ann/seed-{n}/metrics.json")["test.loss"] for one in ("one", "two")
        )
        for n in (1, 2)
    ]
    assert metrics["average/ann"]["nats"] == {
        "mean": pytest.approx(statistics.fmean(losses)), "deviation": pytest.approx(statistics.stdev(losses)), "n": 2,
    }  # fmt: skip
    out = capsys.readouterr().out
    last = out[out.rindex("one  test.loss") :]
    assert "average  nats" in last
    assert "note: average 'nats': two has no dev.loss" in last
    assert "<h2>Averages</h2>" in (tmp_path / "s/report.html").read_text()
    assert load("s/recipe.yaml").averages == {"nats": {"one": ["test.loss"], "two": ["test.loss", "dev.loss"]}}
    assert run.execute(load("s/recipe.yaml"), resume="s") == 0
    assert read_json(tmp_path / "s/metrics.json") == metrics


def test_a_series_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(write_recipe(tmp_path, TWO), SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(Windows, "__getitem__", Windows.__getitem__)
        StopAt(13)
        with pytest.raises(Interrupted, match=r"To continue: sj-lang run s/recipe\.yaml --resume s$"):
            run.execute(recipe)
    assert read_json(tmp_path / "s/manifest.json")["status"] == "interrupted"
    assert read_json(tmp_path / "s/spiking/manifest.json")["status"] == "done"
    assert read_json(tmp_path / "s/ann/manifest.json")["status"] == "interrupted"
    before = (tmp_path / "s/spiking/manifest.json").read_bytes()
    with pytest.raises(UserError, match="unfinished"):
        run.execute(recipe)
    assert run.execute(load("s/recipe.yaml"), resume="s") == 0
    assert (tmp_path / "s/spiking/manifest.json").read_bytes() == before
    assert read_json(tmp_path / "s/manifest.json")["status"] == "done"
    assert list(read_json(tmp_path / "s/metrics.json")) == ["spiking", "ann"]


def test_a_signal_while_the_last_figures_are_drawn_ends_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(figures, "decays", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        patch.setattr(TinyText, "sample_prompt", lambda *args: None)
        with pytest.raises(Interrupted, match=r"SIGTERM when the run was finished\. To continue: .* --resume s$"):
            run.execute(load(write_recipe(tmp_path, TWO), SHORT))
    assert read_json(tmp_path / "s/spiking/manifest.json")["status"] == "done"
    assert not (tmp_path / "s/ann").exists()
    assert run.execute(load("s/recipe.yaml"), resume="s") == 0
    assert read_json(tmp_path / "s/ann/manifest.json")["status"] == "done"


def test_one_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs = "runs:\n  bad: {model: {explode_at: 2}}\n  good: {}\n"
    with pytest.raises(RunFailed, match=r"1 of 2 runs failed:\nbad: stopped at step 2"):
        run.execute(load(write_recipe(tmp_path, runs), SHORT))
    assert list(read_json(tmp_path / "s/metrics.json")) == ["good"]
    manifest = read_json(tmp_path / "s/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("failed", 1)


def test_what_is_wrong_with_the_last_run_is_found_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = "runs:\n  good: {}\n  bad: {task: {windows: 0}}\n"
    path = write_recipe(tmp_path, runs)
    with pytest.raises(UserError, match=r"run 'bad': task\.windows is 0"):
        run.execute(load(path, SHORT))
    assert capsys.readouterr().out == ""
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("runs", [TWO, "seeds: [1, 2]\n"], ids=["runs", "seeds"])
def test_data_out_of_reach_end_a_series_before_it_has_a_folder(
    runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(*_: Any, **__: Any) -> None:
        raise Unreachable("the hub cannot be reached")

    path = write_recipe(tmp_path, runs)
    with monkeypatch.context() as patch:
        patch.setattr(TinyText, "prepare", prepare)
        with pytest.raises(Unreachable, match=r"run '(spiking|seed-1)': the hub cannot be reached") as error:
            run.execute(load(path, SHORT))
        assert error.value.exit_code == 2
        assert capsys.readouterr().out == ""
        assert not (tmp_path / "s").exists()
        assert run.execute(load(path, SHORT), dry_run=True) == 0
        assert "NOT checked, because they cannot be reached" in capsys.readouterr().out


def test_dry_run_of_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.execute(load(write_recipe(tmp_path, TWO + "seeds: [1, 2]\n"), SHORT), dry_run=True) == 0
    out = capsys.readouterr().out
    assert "== spiking/seed-1 and 1 more seed" in out
    assert "1,418, 0 of them in spiking neurons" in out
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


def test_precision_may_differ_between_runs(tmp_path: Path) -> None:
    runs: Any = "runs:\n  short: {train: {bf16: true}}\n  long: {}\n"
    assert run.execute(load(write_recipe(tmp_path, runs), SHORT)) == 0
    metrics = read_json(tmp_path / "s/metrics.json")
    assert metrics["short"]["test.loss"]["mean"] != metrics["long"]["test.loss"]["mean"]
    assert metrics["short"]["test.loss"]["mean"] == pytest.approx(metrics["long"]["test.loss"]["mean"], abs=0.2)


def test_a_finished_series_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(write_recipe(tmp_path, TWO), SHORT)
    assert run.execute(recipe) == 0
    with monkeypatch.context() as patch:
        patch.setattr("sj_lang.run.single.assemble", lambda *arguments: pytest.fail("the data are read"))
        assert run.execute(load("s/recipe.yaml"), resume="s") == 0
