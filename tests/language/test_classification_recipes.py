"""The recipes glue/* and text/* on small data of each form: built whole, two trained a little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_glue import NINE, layout
from tiny_bert import store_bert
from transformers import pipeline

from sj_lang import plugins, run
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.run import assembly, series

RUNS = ("twin", "spiking", "softmax_free")  # of each recipe glue/TASK
SCRATCH = [name for name in plugins.recipes() if name.startswith("glue/") and name.endswith(("-scratch", "-ablations"))]
TEXT = [name for name in plugins.recipes() if name.startswith("text/") and name.endswith("-scratch")]
SMALL = ["tokenizer.vocab_size=300", "model.hidden_size=8", "model.intermediate_size=8"]
SHORT = ["train.max_steps=2", "train.eval_steps=2", "train.per_device_train_batch_size=8", "seeds=null"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in NINE:
        layout(tmp_path / "glue", name)
    return str(tmp_path / "glue")


def test_there_is_a_recipe_for_each_task() -> None:
    assert {f"glue/{name}-scratch" for name in NINE} <= set(plugins.recipes())
    assert {f"glue/{name}" for name in NINE} <= set(plugins.recipes())
    assert len(TEXT) >= 4
    assert {"text/from-files", "text/sst5"} <= set(plugins.recipes())


@pytest.mark.parametrize("name", SCRATCH)
def test_from_scratch(name: str, data: str) -> None:
    changes = [f"task.data={data}", "task.validation=6", *SMALL]
    for _, child in load(name, changes).children():
        job = assembly.assemble(child, Path("out"))
        assert job.recipe.task["name"] == name.removeprefix("glue/").partition("-")[0]
        assert job.model.config.num_labels == len(job.prepared.model.get("id2label", "1"))


@pytest.mark.parametrize("name", [f"glue/{name}" for name in NINE])
def test_from_a_checkpoint_that_must_be_given(name: str, data: str) -> None:
    children = load(name, [f"task.data={data}"]).children()
    kinds = [("twin", "glue"), ("spiking", "distillation"), ("softmax_free", "distillation")]
    assert [(run, child.task["type"]) for run, child in children] == kinds
    for _, child in children:
        with pytest.raises(UserError, match=r"model\.init_from is not set: .*model\.init_from=FOLDER"):
            assembly.assemble(child, Path("out"))


def test_all_from_one_checkpoint_with_the_twins_beside(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    store_bert("bert")
    recipe = load("glue/all-pretrained", ["model.init_from=bert", f"task.data={data}", "task.validation=6"])
    assert [name for name, _ in recipe.children()] == [f"{task}/{run}" for task in NINE for run in RUNS]
    assert recipe.averages is not None
    assert {name: len(members) for name, members in recipe.averages.items()} == {
        "eight tasks, as papers on spiking networks report them": 8, "nine tasks, as GLUE scores them": 9,
        "energy.mj": 9, "firing_rate.mean": 9, "train.seconds": 9,
    }  # fmt: skip
    assert run.execute(recipe, dry_run=True) == 0
    printed = capsys.readouterr().out
    assert printed.count("dry run: nothing is trained and nothing is written") == 27
    assert not Path("runs").exists()
    seeds = load("glue/all-pretrained", ["model.init_from=bert", f"task.data={data}", "seeds=[0, 1, 2]"]).children()
    assert len(seeds) == 81
    linked = series.linked(dict(seeds))
    assert linked["rte/spiking/seed-1"].task["teacher"] == linked["rte/twin/seed-1"].output


@pytest.mark.slow
def test_all_from_one_checkpoint_ends_with_a_table(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    store_bert("bert")
    changes = ["model.init_from=bert", f"task.data={data}", "task.validation=6", "output=all", *SHORT]
    assert run.execute(load("glue/all-pretrained", changes)) == 0
    metrics = read_json(Path("all/metrics.json"))
    assert metrics["average/spiking"].keys() - metrics["average/twin"].keys() == {"firing_rate.mean"}
    last = capsys.readouterr().out.rpartition("Report: all/wnli/softmax_free")[2]
    lines = {line[:66].strip(): line[66:] for line in last.splitlines() if line.startswith("  ")}
    assert lines[""].split() == [*RUNS, "majority", "bag_of_words"]
    assert len(lines["cola  dev.matthews"].split()) == 5
    assert lines["cola  energy.mj"].count("mJ") == lines["cola  train.seconds"].count(" s") == 3
    assert len(lines["average  firing_rate.mean"].split()) == 2
    assert "note" not in last


def test_fine_tuning_needs_a_checkpoint(data: str) -> None:
    recipe = load("glue/finetune", [f"task.data={data}"])
    assert not recipe.is_series
    with pytest.raises(UserError, match=r"model\.init_from is not set: .*model\.init_from=FOLDER"):
        assembly.assemble(recipe, Path("out"))


@pytest.mark.slow
def test_all_with_averages(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"task.data={data}", *SMALL, *SHORT, "task.validation=6", "model.num_hidden_layers=1", "output=all"]
    changes += ["measure.firing_rate=false", "measure.raster=false"]
    assert run.execute(load("glue/all", changes)) == 0
    metrics = read_json(Path("all/metrics.json"))
    assert {f"{name}-scratch/{kind}" for name in NINE for kind in ("spiking", "ann")} <= metrics.keys()
    nine = next(name for name in metrics["average/spiking"] if name.startswith("nine"))
    single = {
        "cola": ["matthews"],
        "mrpc": ["f1", "accuracy"],
        "qqp": ["f1", "accuracy"],
        "stsb": ["pearson", "spearman"],
    }
    total = 0.0
    for name in NINE:
        figures = [f"dev.{one}" for one in single.get(name, ["accuracy"])] + ["dev_mm.accuracy"] * (name == "mnli")
        found = metrics[f"{name}-scratch/spiking"]
        total += sum(found[one]["mean"] for one in figures) / len(figures)
    assert metrics["average/spiking"][nine]["mean"] == pytest.approx(total / 9)
    assert {"average/ann", "average/baseline.majority", "average/baseline.bag_of_words"} <= metrics.keys()
    last = capsys.readouterr().out.rpartition("== ")[2]
    for expected in (
        "majority",
        "bag_of_words",
        "mrpc-scratch  dev.f1",
        "mnli-scratch  dev_mm.accuracy",
        f"average  {nine}",
    ):
        assert expected in last
    for folder, name in (("sst2-scratch/spiking", "SST-2"), ("mnli-scratch/spiking", "MNLI-mm")):
        assert Path(f"all/{folder}/predictions/{name}.tsv").is_file()
    assert Path("all/stsb-scratch/spiking/predictions/STS-B.tsv").is_file()


def test_from_the_checkpoint_of_another_run(data: str) -> None:
    scratch = load("glue/rte-scratch", [f"task.data={data}", *SMALL, *SHORT, "task.validation=6", "output=first"])
    assert run.execute(replace(scratch.children()[0][1], output="first")) == 0
    where = "model.init_from=first"
    sizes = [f"model.{key}=8" for key in ("hidden_size", "intermediate_size")]
    changes = [f"task.data={data}", where, *sizes, *SHORT[:3], "task.validation=6", "output=second"]
    assert run.execute(load("glue/finetune", ["task.name=qnli", *changes])) == 0
    notes = read_json(Path("second/manifest.json"))["notes"]
    assert any(note.startswith("init_from first: ") for note in notes)
    first, second = (Path(f"{one}/model/tokenizer.json").read_text(encoding="utf-8") for one in ("first", "second"))
    assert first == second, "the tokenizer is the checkpoint's"


def test_mnli_from_its_twin(data: str) -> None:
    scratch = load("glue/mnli-scratch", [f"task.data={data}", *SMALL, *SHORT, "task.validation=6", "runs.spiking=null"])
    assert run.execute(scratch) == 0
    changes = [f"task.task.data={data}", "task.task.validation=6", *SMALL[1:], *SHORT[:3]]
    assert run.execute(load("glue/mnli-distilled", changes)) == 0
    scores = read_json(Path("runs/glue/mnli-distilled/metrics.json"))
    assert {"dev.accuracy", "dev_mm.accuracy", "baseline.majority.dev.accuracy"} <= scores.keys()


@pytest.mark.parametrize("name", TEXT)
def test_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = load(name).children()[0][1].task["text"] if load(name).is_series else load(name).task["text"]
    column = text if isinstance(text, str) else text[0]
    rows = "".join(f"{n % 2}\t好 film {n} is {'bad' if n % 2 else 'good'}\n" for n in range(60))
    Path("train.tsv").write_text(f"label\t{column}\n{rows}", encoding="utf-8")
    recipe = load(name, ["task.data.train=train.tsv", *SMALL])
    for _, child in recipe.children() or [("", recipe)]:
        job = assembly.assemble(child, Path("out"))
        assert (job.model.config.num_labels, list(job.prepared.tests)) == (2, ["dev"])


def test_a_table_of_texts_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store_bert("bert")
    rows = "".join(f"{('poor', 'fair', 'great')[n % 3]},film {n} is {'words' * (n % 3)}\n" for n in range(90))
    Path("reviews.csv").write_text(f"stars,review\n{rows}", encoding="utf-8")
    table = ["task.data=reviews.csv", "task.text=review", "task.label=stars"]
    with pytest.raises(UserError, match=r"model\.init_from is not set: .*model\.init_from=FOLDER"):
        run.execute(load("text/from-files", table))
    assert run.execute(load("text/from-files", ["model.init_from=bert", *table, *SHORT[:3], "output=out"])) == 0
    metrics = read_json(Path("out/metrics.json"))
    assert list(metrics) == list(RUNS)
    assert {"dev.accuracy", "calibration.error.layer.1", "energy.mj", "firing_rate.mean"} <= metrics["spiking"].keys()
    stored = load("out/spiking/recipe.yaml")
    assert (stored.task["type"], stored.task["task"]["type"]) == ("distillation", "text_classification")
    assert stored.task["teacher"] == "out/twin"
    (answer,) = pipeline("text-classification", model="out/spiking/model")("film 7 is words")
    assert answer["label"] in {"poor", "fair", "great"}
