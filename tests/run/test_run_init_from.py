"""`model.init_from`: what has a place goes there, what is new is told,
what does not fit is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import write_recipe

from sj_lang import recipe, run
from sj_lang.errors import UserError
from sj_lang.run import assembly


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., assembly.Job]:
    def assemble(*changes: str) -> assembly.Job:
        loaded = recipe.load(str(write_recipe(tmp_path)), changes)
        return assembly.assemble(loaded, tmp_path / "out")

    return assemble


@pytest.fixture
def stored(job: Callable[..., assembly.Job], tmp_path: Path) -> Path:
    """A checkpoint of the recipe's model with other weights than its seed gives."""
    model = job("seed=5").model
    model.save_pretrained(tmp_path / "stored")
    return tmp_path / "stored"


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_all_weights_are_taken(job: Callable[..., assembly.Job], stored: Path) -> None:
    found = job(f"model.init_from={stored}")
    expected = load_file(stored / "model.safetensors")
    assert expected
    for name, value in expected.items():
        assert torch.equal(value, weights(found.model)[name]), name
    assert any(f"init_from {stored}: {len(expected)} of {len(expected)} tensors were there" in n for n in found.notes)


def test_another_tokenizer_is_refused(job: Callable[..., assembly.Job], stored: Path) -> None:
    tokenizer = job().prepared.tokenizer
    tokenizer.save_pretrained(stored)
    job(f"model.init_from={stored}")
    file = stored / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    (one, first), (two, second) = list(vocabulary.items())[:2]
    vocabulary[one], vocabulary[two] = second, first
    file.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=f"tokenizer: 2 of the {len(tokenizer)} tokens of model.init_from, .*'{two}': 0"
    ):
        job(f"model.init_from={stored}")


def test_what_is_missing_is_fresh_and_told(job: Callable[..., assembly.Job], stored: Path) -> None:
    file = stored / "model.safetensors"
    kept = load_file(file)
    gone = sorted(kept)[0]
    save_file(
        {"foreign.weight": torch.zeros(2), **{n: v for n, v in kept.items() if n != gone}}, file, {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"lacks tensors that its config.json promises: embed"):
        job(f"model.init_from={stored}")
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps(config | {"architectures": ["WithAnotherHead"]}))
    found = job(f"model.init_from={stored}")
    assert torch.isfinite(weights(found.model)[gone]).all()
    note = next(note for note in found.notes if note.startswith("init_from"))
    assert f"new: {gone.rpartition('.')[0]}.* (1)" in note
    assert "without a place here: foreign.* (1)" in note


def test_another_shape_is_refused_naming_the_tensors(job: Callable[..., assembly.Job], stored: Path) -> None:
    file = stored / "model.safetensors"
    kept = load_file(file)
    name = next(name for name, value in kept.items() if value.dim() == 2)
    rows, columns = kept[name].shape
    save_file({**kept, name: torch.zeros(rows + 1, columns)}, file, {"format": "pt"})
    with pytest.raises(UserError) as error:
        job(f"model.init_from={stored}")
    assert f"{name}: [{rows + 1}, {columns}] in the checkpoint, [{rows}, {columns}] here" in str(error.value)


def test_a_checkpoint_of_another_kind_is_refused(job: Callable[..., assembly.Job], stored: Path) -> None:
    save_file({"foreign.weight": torch.zeros(2)}, stored / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="has no tensor of this model"):
        job(f"model.init_from={stored}")


def test_what_is_no_checkpoint_says_so(job: Callable[..., assembly.Job], tmp_path: Path, stored: Path) -> None:
    with pytest.raises(UserError, match=r"init_from: ./nowhere is not a folder"):
        job("model.init_from=./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no checkpoint with safetensors in .*empty"):
        job(f"model.init_from={tmp_path / 'empty'}")
    torch.save({}, stored / "pytorch_model.bin")
    (stored / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint with safetensors in .*stored"):
        job(f"model.init_from={stored}")


def test_a_name_on_the_hub_fails_at_once_without_a_network(
    job: Callable[..., assembly.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match="the Hugging Face hub cannot be reached and the local cache has no copy") as e:
        job("model.init_from=hub:google-bert/bert-base-uncased")
    assert "\n" not in str(e.value)


def test_a_dry_run_checks_it_and_a_run_goes_on_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_recipe(tmp_path))
    first, second = tmp_path / "first", tmp_path / "second"
    assert run.execute(recipe.load(path, [f"output={first}"])) == 0
    changes = [f"output={second}", f"model.init_from={first}", "train.learning_rate=0.0"]
    assert run.execute(recipe.load(path, changes), dry_run=True) == 0
    assert f"init_from {first}: " in capsys.readouterr().out
    assert run.execute(recipe.load(path, changes)) == 0
    notes = json.loads((second / "manifest.json").read_text())["notes"]
    assert any(note.startswith(f"init_from {first}") for note in notes)
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UserError, match="is not a folder"):
        run.execute(recipe.load(path, [f"output={second}2", "model.init_from=./gone"]), dry_run=True)
