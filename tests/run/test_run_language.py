"""The run with the real task and the real model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.plugins import Registry, chosen, use
from sj_lang.recipe import load
from sj_lang.run import assembly
from sj_lang.run.ablation import Mean, parts_of
from sj_lang.run.checks import check_loss
from sj_lang.run.console import Console
from sj_lang.run.guards import FiniteGuard
from sj_lang.run.trainer import RunTrainer

RECIPE = """\
recipe: 1
name: real
task: {type: causal_lm, data: text.txt, length: 16, split: [0.8, 0.1, 0.1]}
tokenizer: {type: characters}
model: {type: spike_decoder, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
train: {max_steps: 4, eval_steps: 2, per_device_train_batch_size: 4, learning_rate: 0.01}
generate: {max_new_tokens: 8}
output: r
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, _components: None) -> Iterator[None]:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "sleeps"]
    (tmp_path / "text.txt").write_text(" ".join(random.Random(1).choices(words, k=700)))
    (tmp_path / "real.yaml").write_text(RECIPE)
    installed = Registry()
    for entry in chosen(entry_points(group="sj_lang"), None):
        installed.load(entry)
    with use(installed):
        yield


def test_trained_evaluated_and_written_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.execute(load("real.yaml")) == 0
    metrics = read_json(tmp_path / "r/metrics.json")
    assert 0 < metrics["firing_rate.mean"] < 1
    assert any(name.startswith("firing_rate.layers.0.attention.") for name in metrics)
    assert 0 < metrics["parameters.neurons"] < metrics["parameters.total"]
    assert run.evaluate("r") == 0
    again = read_json(tmp_path / "r/eval.json")
    assert again == {name: value for name, value in metrics.items() if name in again}
    assert {"test.loss", "test.bits_per_char", "firing_rate.mean"} <= again.keys()
    assert read_json(tmp_path / "r/model/config.json").get("use_cache") is not False
    capsys.readouterr()
    assert run.generate("r") == 0
    assert capsys.readouterr().out == (tmp_path / "r/sample.txt").read_text()
    assert run.generate("r", stream=True) == 0
    assert capsys.readouterr().out == (tmp_path / "r/sample.txt").read_text()
    with pytest.raises(UserError, match="--stream prints one text as it is written; num_beams must be 1"):
        run.generate("r", options={"num_beams": 2}, stream=True)


def test_what_the_tokenizer_does_not_know_of_a_prompt_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.execute(load("real.yaml", ["generate.prompt='the €5'"])) == 0
    note = "note: the tokenizer does not know '€', '5' of the prompt: the model reads <unk> there"
    out = capsys.readouterr().out
    assert out.index(note) < out.index("It wrote:")
    assert any("'€', '5'" in note for note in read_json(Path("r/manifest.json"))["notes"])
    assert run.generate("r", "☃ fox☃") == 0
    assert "does not know '☃' of the prompt" in capsys.readouterr().out
    assert run.generate("r", "fox") == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("twin", ["false", "true"])
def test_accumulated_gradient_is_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch, twin: str) -> None:
    gradients: list[dict[str, torch.Tensor]] = []

    def keep(self: FiniteGuard, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        raise KeyboardInterrupt

    monkeypatch.setattr(FiniteGuard, "check", keep)
    for batch, parts in ((16, 1), (4, 4)):
        changes = [f"train.per_device_train_batch_size={batch}", f"train.gradient_accumulation_steps={parts}"]
        job = assembly.assemble(load("real.yaml", [*changes, f"model.twin={twin}"]), Path("r"))
        trainer = RunTrainer(job, Console())
        check_loss(trainer)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    whole, parts_ = gradients
    assert max(float(grad.abs().max()) for grad in whole.values()) > 1e-4
    for name, grad in whole.items():
        torch.testing.assert_close(parts_[name], grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_figures_without_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.execute(load("real.yaml", ["measure.ablate=layers", "model.num_hidden_layers=2"])) == 0
    metrics = read_json(tmp_path / "r/metrics.json")
    ablated = {name: value for name, value in metrics.items() if name.startswith("ablation.")}
    names = [f"{part}{layer}" for part in ("attention", "mlp") for layer in ("", ".0", ".1")]
    figures = ("loss", "bits_per_char", "accuracy", "perplexity_per_word")
    assert set(ablated) == {f"ablation.{name}.{figure}" for name in names for figure in figures}
    losses = [ablated[f"ablation.{name}.loss"] for name in names]
    assert len({*losses, metrics["test.loss"]}) == 7
    assert "ablation.mlp.loss" in capsys.readouterr().out
    assert run.evaluate("r") == 0
    assert {name: value for name, value in read_json(tmp_path / "r/eval.json").items() if name in ablated} == ablated


def test_a_part_is_replaced_by_its_mean_over_valid_positions() -> None:
    mean, layer = Mean(), torch.nn.Linear(3, 2)
    x, mask = torch.randn(5, 4, 3), torch.rand(5, 4) < 0.6
    outputs = [(layer(half), {"state": half}) for half in x.split([2, 3])]
    for output, valid in zip(outputs, mask.split([2, 3]), strict=True):
        mean.add((None, valid), output)
    replaced, state = mean.in_place_of(outputs[0])
    torch.testing.assert_close(replaced, layer(x)[mask].mean(0).expand(2, 4, 2))
    assert state is outputs[0][1]


def test_a_model_without_parts_cannot_be_ablated() -> None:
    with pytest.raises(UserError, match=r"measure\.ablate: Linear does not say what its parts are"):
        parts_of(torch.nn.Linear(2, 2), each_layer=False)
