"""The recipes pretrain/*: SNN-BERT is pre-trained, taught by its twin,
and is where another task starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sj_lang.recipe import load
from sj_lang.run import execute

TINY = ["train.max_steps=6", "train.eval_steps=3", "train.save_steps=3", "model.hidden_size=16"]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{verse} and {verse * line} green bottles hang on wall {line}.\n" for verse in range(150) for line in range(9)
    ]
    (tmp_path / "bottles.txt").write_text("".join(lines))
    return "bottles.txt"


def figures(run: str) -> dict[str, float]:
    return dict(json.loads(Path(run, "metrics.json").read_text(encoding="utf-8")))


@pytest.mark.timeout(120)
def test_the_paper_sized_recipe_is_checked_without_network(
    offline: Callable[[], float], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["model.hidden_size=24", "model.num_hidden_layers=1", "model.intermediate_size=24"]
    assert execute(load("pretrain/snn-bert-base", sizes), dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "steps       500,000" in shown
    assert "cls.seq_relationship" in shown
    assert "NOT checked" in shown
    assert "hub:wikimedia/wikipedia/20231101.en" in shown
    assert offline() < 60


def test_a_twin_teaches_and_what_is_learned_is_where_a_classifier_starts(text: str, tmp_path: Path) -> None:
    execute(load("pretrain/small-ann", [f"task.data={text}", "tokenizer.vocab_size=120", *TINY]))
    execute(load("pretrain/small-distilled", [f"task.task.data={text}", *TINY]))
    found = figures("runs/pretrain/small-distilled")
    assert 0 < found["test.loss"] < 100
    assert 0 < found["firing_rate.mean"] < 1
    assert found["parameters.neurons"] > 0
    assert (
        found["parameters.total"] - found["parameters.neurons"]
        == figures("runs/pretrain/small-ann")["parameters.total"]
    )

    rows = [f"{'good' if row % 3 else 'bad'} green bottles {row}\t{'yes' if row % 3 else 'no'}" for row in range(90)]
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    small = json.dumps({key: value for key, value in load("pretrain/small", TINY).model.items() if key != "init_from"})
    (tmp_path / "start.yaml").write_text(
        f"""\
recipe: 1
name: start
task: {{type: text_classification, data: {{train: train.tsv, dev: dev.tsv}}, text: sentence, label: label, length: 16}}
tokenizer: {{type: pretrained, name: runs/pretrain/small-distilled/model}}
model: {small}
train: {{max_steps: 4, eval_steps: 2}}
"""
    )
    execute(load("start.yaml", ["model.init_from=runs/pretrain/small-distilled", "output=start"]))
    notes = " ".join(json.loads(Path("start/manifest.json").read_text(encoding="utf-8"))["notes"])
    assert "init_from runs/pretrain/small-distilled" in notes
    assert "new: bert.pooler" in notes or "bert.pooler.dense" in notes
    assert "bert.encoder" not in notes
    assert "dev.accuracy" in figures("start")

    taught = load("start.yaml").task | {"type": "text_classification"}
    change = json.dumps(
        {"type": "distillation", "task": {k: v for k, v in taught.items() if v is not None}, "teacher": "start"}
    )
    execute(load("start.yaml", [f"task={change}", "output=taught", "train.gradient_accumulation_steps=2"]))
    assert "dev.accuracy" in figures("taught")


def test_codings_differ_in_nothing_but_their_neurons(text: str) -> None:
    execute(load("pretrain/codings", [f"task.data={text}", "tokenizer.vocab_size=120", "seeds=[0]", *TINY]))
    found = {kind: figures(f"runs/pretrain/codings/{kind}/seed-0") for kind in ("spiking", "lif", "ann")}
    assert len({one["parameters.total"] - one["parameters.neurons"] for one in found.values()}) == 1
    assert found["spiking"]["parameters.neurons"] > found["lif"]["parameters.neurons"] == 0
    assert len({one["test.loss"] for one in found.values()}) == 3
    assert all(found[kind]["firing_rate.mean"] > 0.01 for kind in ("spiking", "lif"))
    assert "firing_rate.mean" not in found["ann"]
    model = json.loads(Path("runs/pretrain/codings/lif/seed-0/model/config.json").read_text(encoding="utf-8"))
    assert (model["coding"], model["timesteps"], model["neuron"]["type"]) == ("repeat", 4, "lif")


def test_the_glue_recipes_start_where_the_small_pre_training_ends(text: str, tmp_path: Path) -> None:
    execute(load("pretrain/small", [f"task.data={text}", "tokenizer.vocab_size=120", *TINY]))
    length = load("pretrain/small").task["length"]
    for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"):
        twin, *students = (child.task for _, child in load(f"glue/{name}").children())
        assert {twin["length"]} == {student["task"]["length"] for student in students}, name
        assert twin["length"] <= length, name
    assert load("glue/finetune").task["length"] <= length
    rows = [f"green bottles {row}\t{row % 2}" for row in range(90)]
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    start = ["model.init_from=runs/pretrain/small", "task.data=.", "model.hidden_size=16"]
    assert execute(load("glue/finetune", ["task.name=sst2", *start]), dry_run=True) == 0
    assert execute(load("glue/sst2", start), dry_run=True) == 0


def test_a_spike_decoder_is_taught_by_its_twin(text: str, tmp_path: Path) -> None:
    """Causal, with hidden states or without."""
    task = f"{{type: causal_lm, data: {text}, length: 16}}"
    sizes = "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2"
    (tmp_path / "twin.yaml").write_text(
        f"""\
recipe: 1
name: twin
task: {task}
tokenizer: characters
model: {{type: spike_decoder, {sizes}, twin: true}}
train: {{max_steps: 4, eval_steps: 2}}
generate: {{max_new_tokens: 2}}
"""
    )
    (tmp_path / "taught.yaml").write_text(
        f"""\
recipe: 1
base: twin.yaml
name: taught
task: {{type: distillation, task: {task}, teacher: runs/twin, hidden: false}}
model: {{twin: false}}
"""
    )
    execute(load("twin.yaml"))
    execute(load("taught.yaml", ["train.gradient_accumulation_steps=2"]))
    assert {"test.bits_per_char", "test.accuracy"} <= set(figures("runs/taught"))
    assert Path("runs/taught/sample.txt").read_text(encoding="utf-8")
    execute(load("taught.yaml", ["task.hidden=true", "output=near"]))
    assert figures("near")["test.loss"] != figures("runs/taught")["test.loss"]
