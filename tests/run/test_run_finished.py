"""A run from end to end, what its folder holds, and what can be done with it afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import offered, write_recipe

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.report import page

pytestmark = pytest.mark.draws


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("finished")
    out = io.StringIO()
    with offered(), contextlib.redirect_stdout(out):
        path = write_recipe(folder)
        assert run.execute(load(path, [f"output={folder / 'r'}", "train.learning_rate=0.1"])) == 0
    return folder / "r", out.getvalue()


def test_the_folder_holds_what_it_should(finished: tuple[Path, str]) -> None:
    root = finished[0]
    names = {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "checkpoint" not in str(path)
    }
    assert names == {
        "recipe.yaml", "manifest.json", "metrics.json", "metrics.jsonl", "ledger.json", "log.txt", "sample.txt",
        "report.html",
        "model/README.md", "model/config.json", "model/generation_config.json", "model/model.safetensors",
        "model/modeling_sj_lang.py", "model/tokenizer.json", "model/tokenizer_config.json", "predictions/test.npz",
        "figures/learning_curves.png", "figures/firing_rates.png", "figures/raster.png", "figures/decays.png",
        "figures/raster.txt", "figures/decays_over_training.png",
        ".lock",
    }  # fmt: skip
    assert {path.name for path in root.glob("checkpoint-*")} <= {"checkpoint-4", "checkpoint-8", "checkpoint-12"}


def test_manifest(finished: tuple[Path, str]) -> None:
    manifest = read_json(finished[0] / "manifest.json")
    assert manifest["status"] == "done"
    assert manifest["exit_code"] == 0
    assert manifest["versions"].keys() >= {"python", "torch", "transformers", "spikingjelly", "sj-lang"}
    assert manifest["machine"]["world_size"] == 1
    assert manifest["data"] == {"letters": 840}
    assert manifest["started"] <= manifest["ended"]
    assert manifest["chosen_step"] in (4, 8, 12)
    assert (finished[0] / "sample.txt").read_text().startswith(manifest["prompt"])
    text = (finished[0] / "figures/raster.txt").read_text()
    assert len(text.split()) == 12
    assert f"The text: {text}" in (finished[0] / "report.html").read_text()


def test_metrics(finished: tuple[Path, str]) -> None:
    metrics = read_json(finished[0] / "metrics.json")
    assert metrics["test.bits_per_char"] == pytest.approx(metrics["test.loss"] / math.log(2))
    assert metrics["test.loss"] < math.log(10)
    assert metrics["train.steps"] == 12
    assert (metrics["parameters.total"], metrics["parameters.neurons"]) == (1450, 32)
    assert 0 < metrics["firing_rate.mean"] < 1
    assert metrics.keys() >= {"firing_rate.layers.0.neuron", "firing_rate.layers.1.neuron", "train.loss"}
    assert metrics["train.tokens_per_second"] > 0
    assert metrics["train.seconds"] > 0


def test_test_loss_is_the_mean_over_tokens(finished: tuple[Path, str]) -> None:
    losses, counts = np.load(finished[0] / "predictions/test.npz").values()
    metrics = read_json(finished[0] / "metrics.json")
    assert len(losses) == 11
    assert len(set(counts.tolist())) > 1  # or a mean over batches would be the same
    assert metrics["test.loss"] == pytest.approx(losses.sum() / counts.sum(), abs=1e-12)


def test_the_best_checkpoint_is_stored(finished: tuple[Path, str]) -> None:
    root = finished[0]
    history = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    validation = {entry["step"]: entry["validation.loss"] for entry in history if "validation.loss" in entry}
    assert list(validation) == [4, 8, 12]
    chosen = read_json(root / "manifest.json")["chosen_step"]
    assert chosen == min(validation, key=validation.__getitem__)
    assert read_json(root / "metrics.json")["validation.loss"] == pytest.approx(validation[chosen], abs=1e-12)
    stored, best = (load_file(root / where / "model.safetensors") for where in ("model", f"checkpoint-{chosen}"))
    assert all(torch.equal(stored[name], best[name]) for name in best)
    losses = [entry["step"] for entry in history if "train.loss" in entry]
    assert losses == [2, 4, 6, 8, 10, 12]
    looks = {entry["step"]: entry["decays.layers.0.neuron v"] for entry in history if "firing_rate.mean" in entry}
    of_half = [*[0] * 10, 1, *[0] * 9]
    assert looks == {10: of_half, 12: of_half}  # every ten steps, and at the end


def test_what_it_says(finished: tuple[Path, str]) -> None:
    out = finished[1]
    for expected in ("tiny/test: a test", "parameters  1,450", "steps       12", "step 12/12", "test.bits_per_char",
                     "It wrote:", "  | a b c", "Report: ", "note: letters, not words"):  # fmt: skip
        assert expected in out
    assert "{'loss'" not in out
    log = (finished[0] / "log.txt").read_text()
    assert all(line.strip() in log for line in out.splitlines())


def test_report(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<figcaption>") == 5
    assert "Weights of step" in page
    metrics = read_json(finished[0] / "metrics.json")
    assert f"{metrics['test.loss']:.4f}</td>" in page
    assert page.count("mean loss of the split, as its task defines it") == 2  # test and validation
    assert "nats" not in page


def test_evaluating_again_gives_the_same_figures(finished: tuple[Path, str]) -> None:
    root = finished[0]
    before = (root / "metrics.json").read_bytes()
    assert run.evaluate(root) == 0
    again, metrics = read_json(root / "eval.json"), read_json(root / "metrics.json")
    (root / "eval.json").unlink()
    assert again == {name: value for name, value in metrics.items() if not name.startswith(("train.", "parameters."))}
    assert (root / "metrics.json").read_bytes() == before


def test_weights_that_cannot_be_read(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Cut off, or pickled: a pickle is not opened."""
    root = Path(shutil.copytree(finished[0], tmp_path / "r"))
    weights = root / "model/model.safetensors"
    whole = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model holds no model that can be read: .*incomplete"):
        run.generate(root)
    weights.unlink()
    torch.save(whole, root / "model/pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no model that can be read: .*safetensors"):
        run.generate(root)


def test_generating_again_gives_the_same_text(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.generate(finished[0]) == 0
    assert capsys.readouterr().out == (finished[0] / "sample.txt").read_text()
    assert run.generate(finished[0], "fgh", {"max_new_tokens": 1}) == 0
    assert len(capsys.readouterr().out.split()) == 4
    assert run.generate(finished[0], "fgh", {"max_new_tokens": 100}) == 0
    assert "note: the model takes 12 tokens in all, so it writes 9 instead of 100" in capsys.readouterr().out
    with pytest.raises(UserError, match="the prompt is empty"):
        run.generate(finished[0], "")
    with pytest.raises(UserError, match="the prompt has 13 tokens, the model takes 12"):
        run.generate(finished[0], "abcdefghijabc")
    with pytest.raises(UserError, match=r"generate\.temperature: expected a finite number > 0.*do_sample to false"):
        run.generate(finished[0], "fgh", {"do_sample": True, "temperature": 0.0})
    with pytest.raises(UserError, match=r"`max_new_tokens` must be greater than 0"):
        run.generate(finished[0], "fgh", {"max_new_tokens": 0})


def test_a_finished_run_is_neither_repeated_nor_resumed(finished: tuple[Path, str]) -> None:
    root = finished[0]
    before = (root / "manifest.json").read_bytes()
    recipe = load(str(root / "recipe.yaml"))
    with pytest.raises(UserError, match="already holds this run, finished"):
        run.execute(recipe)
    assert run.execute(recipe, resume=root) == 0
    assert (root / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("action", [run.evaluate, run.generate, lambda place: page.write([place])])
def test_what_is_no_run_is_refused(tmp_path: Path, action: object) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        action(tmp_path)  # type: ignore[operator]


def test_the_stored_recipe_gives_the_same_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    run.execute(load(str(finished[0] / "recipe.yaml"), ["output=again"]))
    first, second = (read_json(root / "metrics.json") for root in (finished[0], tmp_path / "again"))
    timed = {"train.seconds", "train.seconds_per_step", "train.tokens_per_second"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_without_validation_the_last_weights_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.execute(load(write_recipe(tmp_path), ["task.validation=false", "task.prompt=false", "model.twin=true"]))
    root = tmp_path / "runs/tiny/test"
    assert "nothing is evaluated during training" in capsys.readouterr().out
    assert "validation" not in (root / "metrics.jsonl").read_text() + (root / "metrics.json").read_text()
    assert read_json(root / "manifest.json")["chosen_step"] == 12
    last, stored = (load_file(root / where / "model.safetensors") for where in ("checkpoint-12", "model"))
    assert all(torch.equal(last[name], stored[name]) for name in last)
    assert not (root / "sample.txt").exists()
    assert not (root / "figures/raster.png").exists()
    assert not (root / "figures/decays.png").exists()
    assert read_json(root / "metrics.json")["parameters.neurons"] == 0


def test_tensorboard_writes_inside_the_run_folder(tmp_path: Path) -> None:
    run.execute(load(write_recipe(tmp_path), ["train.report_to=[tensorboard]", "train.max_steps=2"]))
    assert list((tmp_path / "runs/tiny/test/tensorboard").rglob("events.out.tfevents.*"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["runs", "tiny.yaml"]
