"""The traps of the Trainer that the run closes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_recipe
from tiny_model import TinyConfig, TinyForCausalLM
from torch import nn

from sj_lang import run
from sj_lang.errors import RunFailed, UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.report import page
from sj_lang.run import assembly
from sj_lang.run.console import Console
from sj_lang.run.guards import FiniteGuard, check_loss_scaling, locate
from sj_lang.run.trainer import RunTrainer


def first_gradient(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> dict[str, torch.Tensor]:
    """The gradient of the first optimizer step, as the Trainer leaves it."""
    gradients: dict[str, torch.Tensor] = {}

    def keep(self: FiniteGuard, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})
        raise KeyboardInterrupt

    monkeypatch.setattr(FiniteGuard, "check", keep)
    recipe = load(write_recipe(folder), [*changes, "model.dropout=0.0", f"output={folder / 'r'}"])
    job = assembly.assemble(recipe, folder)
    trainer = RunTrainer(job, Console())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return gradients


@pytest.mark.parametrize("ragged", ["true", "false"])
def test_accumulated_gradient_is_that_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ragged: str
) -> None:
    def gradient(batch: int, parts: int) -> dict[str, torch.Tensor]:
        return first_gradient(
            tmp_path,
            monkeypatch,
            f"task.ragged={ragged}",
            f"train.per_device_train_batch_size={batch}",
            f"train.gradient_accumulation_steps={parts}",
            "train.max_grad_norm=0.0",
        )

    whole, parts = gradient(16, 1), gradient(4, 4)
    assert max(float(grad.abs().max()) for grad in whole.values()) > 1e-3
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_model_that_ignores_the_number_of_items_is_refused(tmp_path: Path) -> None:
    batch = {"input_ids": torch.randint(0, 10, (2, 6)), "labels": torch.randint(0, 10, (2, 6))}
    check_loss_scaling(TinyForCausalLM(TinyConfig()), batch, accumulation=4)
    recipe = load(write_recipe(tmp_path), ["model.deaf=true", "train.gradient_accumulation_steps=4"])
    with pytest.raises(UserError, match=r"gradient would be 4 times too large.*loss_function"):
        run.execute(recipe)
    assert not (tmp_path / "runs").exists()


def test_nan_stops_the_run_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(write_recipe(tmp_path), ["model.explode_at=6"])
    with pytest.raises(RunFailed, match=r"stopped at step 6: the loss is nan") as caught:
        run.execute(recipe)
    message = str(caught.value)
    assert "layers.0.up (Linear)" in message
    assert "last finite loss was" in message
    assert "at step 5" in message
    assert caught.value.exit_code == 1
    manifest = read_json(tmp_path / "runs/tiny/test/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("failed", 1)
    assert "step 6" in manifest["error"]
    assert not (tmp_path / "runs/tiny/test/metrics.json").exists()
    html = page.write(["runs/tiny/test"]).read_text()
    assert "failed: stopped at step 6" in html
    assert "No figures yet." in html
    assert "loss 0.0000" not in capsys.readouterr().out


def spoil_weight(model: nn.Module) -> None:
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")


def spoil_gradient(model: nn.Module) -> None:
    model[0].weight.grad[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "place"),
    [(spoil_weight, "parameter that is not finite: 1.weight"), (spoil_gradient, "1 of 4 gradients are not")],
)
def test_locate_names_the_place(spoil: Callable[[nn.Module], None], place: str) -> None:
    class Two(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    model = Two(nn.Linear(3, 3), nn.Linear(3, 1))
    batch = {"x": torch.ones(2, 3)}
    model(**batch).sum().backward()
    spoil(model)
    assert place in locate(model, [batch])


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = nn.Linear(3, 1)
    loss = model(torch.ones(3)).sum()
    loss.backward()
    guard = FiniteGuard()
    guard.collect({"input": torch.ones(3)}, loss)
    guard.check(model, 1, scaled=False, world_size=1)
    model.weight.grad[0, 1] = float("inf")
    guard.collect({"input": torch.ones(3)}, loss)
    with pytest.raises(RunFailed, match=r"step 2: a gradient is not finite.*nearest to the loss\) weight"):
        guard.check(model, 2, scaled=False, world_size=1)


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(RunTrainer, "log", broken)
    recipe = load(write_recipe(tmp_path))
    with pytest.raises(RunFailed, match=r"ZeroDivisionError: no luck.*runs/tiny/test/log\.txt"):
        run.execute(recipe)
    log = (tmp_path / "runs/tiny/test/log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert read_json(tmp_path / "runs/tiny/test/manifest.json")["status"] == "failed"
    with pytest.raises(ZeroDivisionError):
        run.execute(load(write_recipe(tmp_path), ["output=other"]), debug=True)


def test_ctrl_c_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunTrainer, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.execute(load(write_recipe(tmp_path)))
    manifest = read_json(tmp_path / "runs/tiny/test/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 130)
