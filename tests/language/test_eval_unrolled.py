"""`sj-lang eval RUN --unrolled`, on the two runs of text/from-files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_bert import store_bert

from sj_lang import cli, run
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load

LAYERS, PRODUCTS = 2, 8  # Linear layers and attention of a layer
COUNTS = {"unrolled.products", "unrolled.substeps", "unrolled.least", "unrolled.most"}


@pytest.fixture(scope="module")
def series(undrawn_in_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unrolled")
    rows = [f"film {n} is {'good' if n % 3 else 'bad words'},{int(n % 3 > 0)}" for n in range(60)]
    (folder / "train.csv").write_text("\n".join(["sentence,label", *rows]))
    store_bert(str(folder / "bert"))
    changes = [f"model.init_from={folder / 'bert'}", f"task.data={folder / 'train.csv'}", f"output={folder / 'out'}"]
    short = ["train.max_steps=2", "train.eval_steps=2", "train.per_device_train_batch_size=8", "measure.raster=false"]
    assert run.execute(load("text/from-files", [*changes, *short, "train.bf16=false"])) == 0
    return folder / "out"


def test_figures_are_the_same_in_substeps(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (series / "spiking/model/model.safetensors").read_bytes()
    assert cli.main(["eval", str(series / "spiking"), "--unrolled"]) == 0
    printed = capsys.readouterr().out
    figures, metrics = read_json(series / "spiking/eval.json"), read_json(series / "spiking/metrics.json")
    plain = {name: value for name, value in figures.items() if not name.startswith("unrolled.")}
    # a product may round a row by where its memory begins
    assert plain == pytest.approx({name: metrics[name] for name in plain}, rel=1e-7)
    again = {name.removeprefix("unrolled."): value for name, value in figures.items() if name not in [*COUNTS, *plain]}
    assert again.keys() == {name for name in plain if not name.startswith("baseline.")}
    assert again == pytest.approx({name: plain[name] for name in again}, rel=1e-3)
    products, substeps, most = (figures[f"unrolled.{name}"] for name in ("products", "substeps", "most"))
    assert most == 4
    assert products % (LAYERS * PRODUCTS) == 0
    assert products < substeps <= 4 * products
    assert f"{products:,} products with spikes ran in {substeps:,} sub-steps" in printed
    assert "The largest spike is 4, the smallest -4." in printed
    assert re.search(r"^ +as it is +in sub-steps$", printed, re.MULTILINE)
    assert re.search(r"^ +dev.accuracy +\d\.\d+ +\d\.\d+$", printed, re.MULTILINE)
    assert (series / "spiking/model/model.safetensors").read_bytes() == before


def test_bf16_too(series: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(series / "spiking", tmp_path / "run"))
    recipe = (root / "recipe.yaml").read_text()
    (root / "recipe.yaml").write_text(recipe.replace("bf16: false", "bf16: true"))
    assert run.evaluate(root, unrolled=True) == 0
    figures = read_json(root / "eval.json")
    assert figures["unrolled.most"] == 4
    assert figures["unrolled.products"] % (LAYERS * PRODUCTS) == 0
    assert figures["unrolled.dev.loss"] == pytest.approx(figures["dev.loss"], rel=0.02)


def test_models_without_spikes_are_refused_before_anything_is_evaluated(series: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SNNBertForSequenceClassification has no spikes to unroll: it is an ANN twin"):
        run.evaluate(series / "twin", unrolled=True)
    assert not (series / "twin/eval.json").exists()
    silent = Path(shutil.copytree(series / "spiking", tmp_path / "silent"))
    file = silent / "model/model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith("node.threshold"):
            tensor.fill_(1e6)
        elif name.endswith("node.offset"):
            tensor.zero_()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"none of its matrix products has whole numbers in it; either no neuron"):
        run.evaluate(silent, unrolled=True)
