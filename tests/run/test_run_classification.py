"""The run with the tasks on sentences, and a BERT of transformers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.manifest import read_json
from sj_lang.plugins import Plugin, Registry, chosen, use
from sj_lang.recipe import load

RECIPE = """\
recipe: 1
name: sentences
task: {type: text_classification, data: {train: train.tsv, dev: dev.tsv, test: test.tsv}, length: 16}
tokenizer: {type: wordpiece, vocab_size: 200}
model: stock-bert
train: {max_steps: 60, eval_steps: 20, per_device_train_batch_size: 16, learning_rate: 0.02}
output: r
"""
WORDS = ["good", "fine", "great"], ["bad", "poor", "awful"]


@strict
class StockConfig(BertConfig):
    model_type = "sj-stock-classifier-test"
    hidden_size: int = 16
    num_hidden_layers: int = 1
    num_attention_heads: int = 2
    intermediate_size: int = 16
    initializer_range: float = 0.1


class StockBert(BertForSequenceClassification):
    config_class = StockConfig


AutoConfig.register(StockConfig.model_type, StockConfig)
AutoModelForSequenceClassification.register(StockConfig, StockBert)


class Stock:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        register.model("stock-bert", f"{__name__}:StockConfig", summary="for tests")


def rows(start: int, count: int) -> str:
    lines = (
        f"film {' '.join(str(n))} is {WORDS[n % 2][n % 3]}\t{['pos', 'neg'][n % 2]}\n"
        for n in range(start, start + count)
    )
    return "sentence\tlabel\n" + "".join(lines)


def write_files(folder: Path) -> None:
    (folder / "train.tsv").write_text(rows(0, 200))
    (folder / "dev.tsv").write_text(rows(190, 30))
    (folder / "test.tsv").write_text("".join(line.split("\t")[0] + "\n" for line in rows(300, 7).splitlines()))
    (folder / "sentences.yaml").write_text(RECIPE)


@pytest.fixture(scope="module")
def installed() -> Registry:
    registry = Registry()
    registry.add(Stock(), Plugin("stock", __name__, "stock-test", "0"))
    for entry in chosen(entry_points(group="sj_lang"), None):
        registry.load(entry)
    return registry


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, _components: None, installed: Registry) -> Iterator[None]:
    write_files(tmp_path)
    with use(installed):
        yield


@dataclass(frozen=True)
class Trained:
    """A run of the recipe as it is, in a folder with its data, and what it printed."""

    folder: Path
    out: str


@pytest.fixture(scope="module")
def trained(undrawn_in_module: None, installed: Registry, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, out = tmp_path_factory.mktemp("trained"), io.StringIO()
    write_files(folder)
    with use(installed), contextlib.chdir(folder), contextlib.redirect_stdout(out):
        assert run.execute(load("sentences.yaml")) == 0
    return Trained(folder, out.getvalue())


def test_trained_scored_predicted_and_compared(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path, out = trained.folder, trained.out
    monkeypatch.chdir(tmp_path)
    metrics = read_json(tmp_path / "r/metrics.json")
    assert metrics["dev.accuracy"] > 0.9
    assert metrics["validation.accuracy"] > 0.9
    assert metrics["baseline.majority.dev.accuracy"] == 0.5
    assert metrics["baseline.bag_of_words.dev.accuracy"] == 1
    assert metrics["baseline.bag_of_words.dev.f1"] == 1
    assert "dev.unseen.accuracy" in metrics
    assert not any(name.startswith("test.") for name in metrics)
    predicted = (tmp_path / "r/predictions/test.tsv").read_text().splitlines()
    assert predicted[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in predicted[1:]] == [str(n) for n in range(7)]
    assert {line.split("\t")[1] for line in predicted[1:]} <= {"pos", "neg"}
    assert len((tmp_path / "r/predictions/dev.tsv").read_text().splitlines()) == 31
    wrong = round((1 - metrics["dev.accuracy"]) * 30)
    assert len((tmp_path / "r/predictions/dev.errors.txt").read_text().splitlines()) == wrong
    assert not (tmp_path / "r/predictions/test.errors.txt").exists()
    assert "train 180, validation 20, dev 30, test 7" in out
    assert "note: test: no labels, so it is predicted and not scored" in out
    assert "note: dev: 10 of 30 examples also occur in train" in out
    config = read_json(tmp_path / "r/model/config.json")
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert run.evaluate("r") == 0
    again = read_json(tmp_path / "r/eval.json")
    assert again == {name: value for name, value in metrics.items() if name in again}
    assert "baseline.bag_of_words.dev.accuracy" in again


def test_the_stored_model_serves_a_pipeline(trained: Trained) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(trained.folder / "r/model"), device="cpu")
    assert [one["label"] for one in classify(["film 9 9 is awful", "film 9 9 is great"])] == ["neg", "pos"]
    classify("great " * 40, truncation=True)
    assert classify.tokenizer.model_max_length == 16


@pytest.mark.parametrize(
    "change", ["train.train_sampling_strategy=group_by_length", "train.dataloader_drop_last=true", "seed=1"]
)
def test_predictions_are_in_the_order_of_the_file_however_training_goes(tmp_path: Path, change: str) -> None:
    # the first half stands in train, and a part of it has other labels here
    head, *lines = rows(150, 100).splitlines()
    lines[:20] = [line.replace("pos", "neg") for line in lines[:20]]
    (tmp_path / "dev.tsv").write_text("\n".join([head, *lines]) + "\n")
    short = ["train.max_steps=40", "task.baselines=false"]
    assert run.execute(load("sentences.yaml", [change, *short, "train.per_device_eval_batch_size=16"])) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r/model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "r/model")
    correct: list[bool] = []
    for name, count in (("dev", 100), ("test", 7)):
        texts = [line.split("\t") for line in (tmp_path / f"{name}.tsv").read_text().splitlines()[-count:]]
        with torch.no_grad():
            logits = [model(**tokenizer(text[0], return_tensors="pt")).logits[0] for text in texts]
        classes = [model.config.id2label[int(logit.argmax())] for logit in logits]
        written = (tmp_path / f"r/predictions/{name}.tsv").read_text().splitlines()[1:]
        assert [line.split("\t")[1] for line in written] == classes
        if name == "dev":
            assert len(set(classes)) == 2, "an order that is wrong would not show"
            correct = [made == text[1] for made, text in zip(classes, texts, strict=True)]
    train = {line.split("\t")[0] for line in rows(0, 200).splitlines()}
    fresh = [
        good
        for good, line in zip(correct, rows(150, 100).splitlines()[1:], strict=True)
        if line.split("\t")[0] not in train
    ]
    metrics = read_json(tmp_path / "r/metrics.json")
    assert metrics["dev.accuracy"] == pytest.approx(sum(correct) / 100)
    assert metrics["dev.unseen.accuracy"] == pytest.approx(sum(fresh) / 50)


def test_a_remark_of_the_figures_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["train.learning_rate=0", "train.max_steps=1", "train.eval_steps=1", "task.baselines=false"]
    assert run.execute(load("sentences.yaml", [*changes, "model.initializer_range=1e-9"])) == 0
    remark = "dev: all predictions are the same, so the correlation is set to 0"
    assert f"note: {remark}" in capsys.readouterr().out
    assert remark in read_json(tmp_path / "r/manifest.json")["notes"]
    metrics = read_json(tmp_path / "r/metrics.json")
    assert metrics["dev.matthews"] == 0
    assert not any(name.startswith("baseline") for name in metrics)


def test_smoothed_labels(trained: Trained) -> None:
    """Training minimises the smoothed loss, figures are of the labels as they are."""
    assert run.execute(load("sentences.yaml", ["train.label_smoothing_factor=0.5", "task.baselines=false"])) == 0
    smoothed = read_json(Path("r/metrics.json"))
    assert smoothed["train.loss"] > read_json(trained.folder / "r/metrics.json")["train.loss"] + 0.2
    assert smoothed["dev.accuracy"] > 0.9


def test_scores_have_no_labels_to_smooth() -> None:
    Path("STS-B").mkdir()
    for part, count in (("train", 60), ("dev", 9)):
        lines = (f"{n}\tfilm {n}\tfilm {n % 7}\t{n % 5:.3f}\n" for n in range(count))
        Path(f"STS-B/{part}.tsv").write_text("index\tsentence1\tsentence2\tscore\n" + "".join(lines))
    Path("scores.yaml").write_text(RECIPE.replace(RECIPE.splitlines()[2], "task: {type: glue, name: stsb, data: .}"))
    with pytest.raises(UserError, match=r"train\.label_smoothing_factor: only .* cross-entropy of `labels` alone"):
        run.execute(load("scores.yaml", ["train.label_smoothing_factor=0.1"]), dry_run=True)
