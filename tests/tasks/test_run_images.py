"""A run without texts, from a recipe to its folder; recipes of the plugin build what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.recipe import load

TINY = ["model.channels=4", "train.num_train_epochs=0.1", "train.disable_tqdm=true", "seeds=null", "task.validation=40"]
SERIES = """\
recipe: 1
name: two
task: image_classification
model: {type: sequence_cnn, layers: 1}
runs:
  ann: {model: {twin: true}}
  dsn-4: {model: {neuron: {type: dsn, n: 4}}}
"""


def test_a_series_runs_and_its_figures_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.yaml").write_text(SERIES)
    run.execute(load("two.yaml", TINY))
    table = json.loads(Path("runs/two/metrics.json").read_text())
    assert set(table) == {"ann", "dsn-4"}
    assert {"test.accuracy", "train.seconds_per_step", "energy.neurons_mj", "firing_rate.mean"} <= set(table["dsn-4"])
    assert "firing_rate.mean" not in table["ann"]
    assert "train.tokens_per_second" not in table["dsn-4"]  # there are no tokens

    folder = Path("runs/two/dsn-4")
    stored = json.loads((folder / "metrics.json").read_text())
    assert "tokenizer" not in (folder / "recipe.yaml").read_text()
    assert not list((folder / "model").glob("tokenizer*"))
    card = (folder / "model/README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "AutoTokenizer" not in card
    capsys.readouterr()
    run.evaluate(folder)
    again = json.loads((folder / "eval.json").read_text())
    assert again["test.accuracy"] == stored["test.accuracy"]
    with pytest.raises(UserError, match="the task 'image_classification' writes no text"):
        run.generate(folder, "Once")
    run.execute(load(str(folder / "recipe.yaml"), ["output=again"]))  # means the same
    assert json.loads(Path("again/metrics.json").read_text())["test.loss"] == stored["test.loss"]


def test_a_tokenizer_has_no_place_in_a_task_without_texts() -> None:
    with pytest.raises(UserError, match=r"tokenizer: the task 'image_classification' reads no text; leave it out"):
        load("five/digits", ["tokenizer=characters"])


def test_a_task_with_texts_still_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("recipe: 1\ntask: {type: causal_lm, data: python-docs}\nmodel: spike_decoder\n")
    with pytest.raises(UserError, match="tokenizer: missing; expected a tokenizer"):
        load(str(path))


def test_without_data_one_sentence_says_what_to_set() -> None:
    with pytest.raises(UserError, match=r"task.data is not set: name a source, a folder of idx files"):
        run.execute(load("five/image", TINY), dry_run=True)


def test_a_psn_of_another_length_is_refused_before_training() -> None:
    psn = ["runs=null", "model.neuron={type: psn, T: 7}"]
    with pytest.raises(UserError, match="built for T = 7 steps, the input has 8: set its T to that"):
        run.execute(load("five/digits", [*TINY, *psn]))
    assert not Path("runs").exists()


def test_the_full_size_is_built_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    run.execute(load("five/image-full", ["runs=null", "seeds=null"]), dry_run=True)
    said = capsys.readouterr().out
    assert "NOT checked" in said
    assert "total" in said
