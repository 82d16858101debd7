"""A stored model as others meet it: its card, what `sj-lang push` sends, and plain transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from sj_lang_language.models.spike_decoder import SpikeDecoderForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from sj_lang import cli
from sj_lang.commands import push
from sj_lang.recipe import load
from sj_lang.run import auto_map

RECIPE = """\
recipe: 1
name: small/test
summary: a small decoder
task: {type: causal_lm, data: text.txt, length: 16, split: [0.8, 0.1, 0.1]}
tokenizer: characters
model: {type: spike_decoder, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
train: {max_steps: 2, per_device_train_batch_size: 4, disable_tqdm: true, use_cpu: true}
generate: {max_new_tokens: 3}
output: run
"""


@pytest.fixture(scope="module")
def trained(undrawn_in_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text("so much depends upon a red wheel barrow " * 40)
        Path("r.yaml").write_text(RECIPE)
        assert cli.main(["run", "r.yaml"]) == 0
    return folder


def test_the_card_says_what_the_run_knows(trained: Path) -> None:
    card = ModelCard.load(trained / "run/model/README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert "spike_decoder" in card.data.tags
    metrics = json.loads((trained / "run/metrics.json").read_text())
    assert f"| `test.loss` | {metrics['test.loss']:.6g} |" in card.text
    assert "pip install sj-lang sj-lang-language sj-lang-neurons" in card.text
    assert "a small decoder" in card.text
    recipe = card.text.partition("```yaml\n")[2].partition("```")[0]
    (trained / "again.yaml").write_text(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        assert load("again.yaml").resolved() == load("r.yaml").resolved()


def test_a_dry_run_shows_what_would_go(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    before = sorted(path.name for path in Path("run/model").iterdir())
    assert cli.main(["push", "run", "me/small", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "these files would go to me/small:" in out
    assert {"README.md", "modeling_sj_lang.py"} <= {*before}
    for name in before:
        assert f"  {name} " in out
    assert sorted(path.name for path in Path("run/model").iterdir()) == before
    assert cli.main(["push", "run"]) == 2
    assert "give the name on the hub, OWNER/NAME" in capsys.readouterr().err


def test_without_a_network_it_says_so_at_once(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], offline: Callable[[], float]
) -> None:
    monkeypatch.chdir(trained)
    assert cli.main(["push", "run", "me/small"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: push: the Hugging Face hub cannot be reached from here; try again with a network"
    )


def test_a_run_of_an_earlier_version_gets_what_it_lacks(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained)
    earlier, stage = tmp_path / "model", tmp_path / "pushed"
    shutil.copytree("run/model", earlier)
    stage.mkdir()
    config = json.loads((earlier / "config.json").read_text())
    del config["auto_map"]
    (earlier / "config.json").write_text(json.dumps(config))
    for name in ("README.md", "modeling_sj_lang.py"):
        (earlier / name).unlink()
    push.stage(earlier, load("r.yaml"), stage)
    for name in ("config.json", "modeling_sj_lang.py"):
        assert (stage / name).read_text() == Path("run/model", name).read_text()
    assert "a small decoder" in (stage / "README.md").read_text()


def test_the_classes_are_imported_from_where_they_are() -> None:
    package = "sj_lang_language.models.spike_decoder"
    assert auto_map.module_of(SpikeDecoderForCausalLM, package) == package
    assert auto_map.module_of(SpikeDecoderForCausalLM, f"{package}.config") == f"{package}.model"


def test_plain_transformers_finds_the_classes(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(trained)
    stage = shutil.copytree("run/model", tmp_path / "copied elsewhere")
    assert type(AutoModelForCausalLM.from_pretrained(stage)) is SpikeDecoderForCausalLM
    program = (
        "import sys, traceback\n"
        "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer\n"
        f"options = dict(pretrained_model_name_or_path={str(stage)!r}, trust_remote_code=True)\n"
        "sys.modules['sj_lang_language'] = None\n"  # as if it were not installed
        "try:\n    AutoModelForCausalLM.from_pretrained(**options)\n"
        "except Exception:\n    print(traceback.format_exc())\n"
        "del sys.modules['sj_lang_language']\n"
        "model = AutoModelForCausalLM.from_pretrained(**options)\n"
        "ids = AutoTokenizer.from_pretrained(**options)('so much', return_tensors='pt')['input_ids']\n"
        "backbone = AutoModel.from_pretrained(**options)\n"
        "print(type(model).__name__, type(backbone).__name__, model(ids).logits.sum().item())"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    missing, _, classes = ran.stdout.strip().rpartition("\n")
    assert "this model needs sj_lang; install it with: pip install sj-lang sj-lang-language sj-lang-neurons" in missing
    whole = SpikeDecoderForCausalLM.from_pretrained(stage)
    ids = AutoTokenizer.from_pretrained(stage)("so much", return_tensors="pt")["input_ids"]
    whole_class, backbone, total = classes.split()
    assert (whole_class, backbone) == ("SpikeDecoderForCausalLM", "SpikeDecoderModel")
    torch.testing.assert_close(float(total), whole(ids).logits.sum().item(), rtol=1e-4, atol=1e-4)
