"""A stored model is loaded whole or not at all, and brings neither code nor pickles."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sj_lang import cli

CHECKPOINT = "model.init_from=r"


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    """The model of a finished run, the copy `r` in the working directory."""
    shutil.copy(finished.parent / "tiny.yaml", tmp_path)
    skip = shutil.ignore_patterns("checkpoint-*")
    return Path(shutil.copytree(finished, tmp_path / "r", ignore=skip)) / "model"


Tensors = dict[str, torch.Tensor]


def _renamed(tensors: Tensors) -> Tensors:
    return {name.replace("layers.1.", "blocks.1."): tensor for name, tensor in tensors.items()}


def _lost(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "layers.0.neuron.threshold"}


def _misshapen(tensors: Tensors) -> Tensors:
    return tensors | {"layers.0.up.bias": torch.zeros(7)}


COMMANDS = (["eval", "r"], ["generate", "r"], ["run", "tiny.yaml", "output=s", CHECKPOINT, "--dry-run"])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_renamed, ("layers.", ".down.")),
        (_lost, ("layers.", ".neuron.")),
        (_misshapen, ("layers.0.up.bias", "[7]", "[16]")),
        (lambda tensors: {"other": torch.zeros(2)}, ()),
        (lambda tensors: tensors | {"layers.7.up.bias": torch.zeros(16)}, ("layers.7.up.bias",)),
        (
            lambda tensors: tensors | {"layers.0.up.bias": torch.ones(16, dtype=torch.int32)},
            ("layers.0.up.bias", "I32"),
        ),
        (
            lambda tensors: tensors | {"head.bias": tensors["head.bias"].to(torch.float8_e4m3fn)},
            ("head.bias", "F8_E4M3"),
        ),
        (lambda tensors: tensors | {"head.bias": tensors["head.bias"] * torch.nan}, ("NaN", "head.bias")),
    ],
    ids=["renamed", "lost", "misshapen", "none", "one too many", "integers", "8 bits", "NaN"],
)
@pytest.mark.parametrize("command", COMMANDS, ids=["eval", "generate", "init_from"])
def test_tensors_that_do_not_fit(
    model: Path,
    command: list[str],
    change: Callable[[Tensors], Tensors],
    names: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = model / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    assert cli.main(command) == 2
    errors = capfd.readouterr().err
    assert all(name in errors for name in (*names, "r")), errors
    assert "unexpected" not in errors


def test_a_flipped_bit_is_told(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("eval", "generate"):
        assert cli.main([command, "r"]) == 0
        assert "note: r/model" not in capfd.readouterr().out
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for command in ("eval", "generate"):
        assert cli.main([command, "r"]) == 0
        assert "note: r/model/model.safetensors is not the file that the run wrote" in capfd.readouterr().out


def test_a_config_of_another_recipe(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"neuron": {"type": "tiny", "threshold": 0.2, "both": False}})
    )
    assert cli.main(["eval", "r"]) == 2
    assert "config.json: neuron is" in capfd.readouterr().err


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("command", COMMANDS, ids=["eval", "generate", "init_from"])
def test_code_is_neither_run_nor_asked_about(
    model: Path, command: list[str], file: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (model / "evil.py").write_text(f"open({str(model / 'ran')!r}, 'w')\n")
    content = json.loads((model / file).read_text())
    if file == "config.json":
        content |= {"model_type": "evil", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.E")}
    else:
        content |= {"tokenizer_class": "E", "auto_map": {"AutoTokenizer": ["evil.E", "evil.E"]}}
    (model / file).write_text(json.dumps(content))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    code = cli.main(command)
    output, errors = capfd.readouterr()
    assert not (model / "ran").exists()
    assert "y/N" not in output
    # it brings a tokenizer of its own
    assert code == 2 or (file, command) == ("tokenizer_config.json", COMMANDS[2])
    assert "unexpected" not in errors


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("open('ran', 'w')",)


@pytest.mark.parametrize("way", ["index", "outside", "config", "adapter", "attention"])
@pytest.mark.parametrize("command", COMMANDS, ids=["eval", "generate", "init_from"])
def test_nothing_but_safetensors_is_opened(
    model: Path, command: list[str], way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    torch.save(tensors | {"evil": Evil()}, model / "weights.bin")
    part = {"index": "weights.bin", "outside": "../../outside.safetensors"}.get(way, "weights.bin")
    if way in ("index", "outside"):
        save_file({"head.bias": tensors.pop("head.bias")}, model / "part.safetensors")
        path.rename(model.parents[1] / "outside.safetensors")
        parts = {"head.bias": "part.safetensors"} | dict.fromkeys(tensors, part)
        (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    elif way == "config":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    elif way == "attention":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"attn_implementation": "somebody/attention"}))
    else:
        (model / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    assert cli.main(command) == 2
    errors = capfd.readouterr().err
    assert not Path("ran").exists()
    named = {"index": "weights.bin", "outside": "outside", "config": "adapter_model.bin", "attention": "somebody/"}
    assert named.get(way, "adapter") in errors
    assert way != "attention" or "code on the hub" in errors
