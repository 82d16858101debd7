"""What is found before training: a UserError, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_recipe

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.recipe import load

PROBLEMS = {
    "no data": (["task.windows=0"], r"windows is 0"),
    "a config field that the data fix": (
        ["model.vocab_size=11"],
        r"model\.vocab_size: the recipe says 11, the data 10",
    ),
    "a node that is not causal": (
        ["model.neuron=looks-ahead", "model.neuron.both=true"],
        r"model\.neuron: looks-ahead \(both=True\) cannot be used here: it is not causal, and the model is causal\. "
        r"Neurons that can: looks-ahead with both=false, tiny$",
    ),
    "a variant that is not causal": (["model.neuron=tiny", "model.neuron.both=true"], r"tiny \(both=True\) cannot"),
    "a node without mask where there is padding": (
        ["model.neuron=unmasked"],
        r"it does not accept a mask, and the task pads its batches",
    ),
    "arguments that contradict one another": (
        ["train.eval_strategy=steps", "train.save_strategy=epoch", "train.load_best_model_at_end=true"],
        r"train: .*save and eval strategy",
    ),
    "a figure that the evaluation does not give": (
        ["train.metric_for_best_model=eval_bits_per_chr"],
        r"^train\.metric_for_best_model: the evaluation gives no 'bits_per_chr'; did you mean 'bits_per_char'\? valid",
    ),
    "an empty prompt": (["generate.prompt=''"], r"generate\.prompt: the prompt is empty"),
    "a prompt without room for an answer": (
        ["generate.prompt=abcdefghijab"],
        r"has 12 tokens, the model takes 12 in all",
    ),
    "an output that is a file": (["output=tiny.yaml"], r"output: tiny\.yaml is a file"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    changes, message = PROBLEMS[name]
    path = write_recipe(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run.execute(load(path, changes))
    assert caught.value.exit_code == 2
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_variant_that_can_is_taken(tmp_path: Path) -> None:
    changes = ["model.neuron=looks-ahead", "model.neuron.both=false"]
    assert run.execute(load(write_recipe(tmp_path), changes), dry_run=True) == 0


def test_a_twin_needs_nothing_of_its_neuron(tmp_path: Path) -> None:
    assert run.execute(load(write_recipe(tmp_path), ["model.twin=true", "model.neuron=unmasked"]), dry_run=True) == 0


def test_dry_run_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    assert run.execute(load(path, ["train.max_steps=-1", "train.num_train_epochs=2"]), dry_run=True) == 0
    out = capsys.readouterr().out
    assert "steps       24 (batch 4)" in out
    assert "1,450, 32 of them in spiking neurons" in out
    assert "layers.*" in out
    assert "note: letters, not words" in out
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


def test_model_does_not_depend_on_how_much_was_drawn_for_the_data(tmp_path: Path) -> None:
    import random

    import torch
    from tiny_task import TinyText

    from sj_lang.run.assembly import assemble

    recipe = load(write_recipe(tmp_path))
    first = assemble(recipe, tmp_path).model.state_dict()
    original = TinyText.prepare

    def wasteful(self: TinyText, tokenizer: object, *, seed: int) -> object:
        torch.rand(3)
        random.random()
        return original(self, tokenizer, seed=seed)

    TinyText.prepare = wasteful  # type: ignore[assignment,method-assign]
    try:
        second = assemble(recipe, tmp_path).model.state_dict()
    finally:
        TinyText.prepare = original  # type: ignore[method-assign]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["bogus", "loss", "eval_bits_per_char"])
def test_the_figure_that_chooses_is_known_before_training(tmp_path: Path, name: str) -> None:
    loaded = load(write_recipe(tmp_path), [f"train.metric_for_best_model={name}"])
    if name == "bogus":
        with pytest.raises(UserError, match="no 'bogus'; valid: bits_per_char, loss"):
            run.execute(loaded, dry_run=True)
    else:
        assert run.execute(loaded, dry_run=True) == 0


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (["train.metric_for_best_model=bits_per_char"], "with the highest validation bits_per_char is taken"),
        (
            ["train.metric_for_best_model=eval_bits_per_char", "train.greater_is_better=false"],
            "with the lowest validation bits_per_char is taken",
        ),
        (["train.metric_for_best_model=loss"], ""),
        (["train.metric_for_best_model=null"], ""),
        ([], ""),
    ],
)
def test_which_way_another_figure_chooses_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], note: str
) -> None:
    run.execute(load(write_recipe(tmp_path), changes), dry_run=True)
    out = capsys.readouterr().out
    assert (note in out) if note else ("is taken" not in out)


def test_looking_at_the_figures_changes_no_training(tmp_path: Path) -> None:
    for name in ("loss", "bits_per_char"):
        changes = [f"train.metric_for_best_model={name}", "train.greater_is_better=false", f"output={name}"]
        run.execute(load(write_recipe(tmp_path), changes))
    one, other = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("loss", "bits_per_char"))
    assert one == other
