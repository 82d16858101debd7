"""From a pre-trained BERT to a spiking student: a twin teaches,
the student starts from it and is calibrated.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sj_lang_language.tasks.distillation.loss import DistillationLoss
from sj_lang_language.tasks.distillation.start import start_from
from sj_lang_language.tokenizers.wordpiece import wordpiece
from tiny_bert import build
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    pipeline,
)

from sj_lang import run
from sj_lang.bench.recipe import time_steps
from sj_lang.errors import UserError
from sj_lang.manifest import read_json
from sj_lang.recipe import load
from sj_lang.run.assembly import assemble
from sj_lang.run.console import Console
from sj_lang.run.trainer import RunTrainer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
INTEGER = "{type: bpsn, variant: G, spikes: integer, levels: 4, offset: true}"
RECIPE = f"""\
recipe: 1
name: both
task: {{type: text_classification, data: {{train: train.tsv, dev: dev.tsv}}, text: sentence, length: 16}}
tokenizer: pretrained
model:
  type: snn_bert
  init_from: bert
  neuron: {INTEGER}
  attention: {{type: softmax, scale: 1.0, gain: 1.0}}
  scaled: true
  hidden_dropout_prob: 0.0
  attention_probs_dropout_prob: 0.0
train:
  max_steps: 40
  eval_steps: 20
  per_device_train_batch_size: 16
  learning_rate: 1e-2
  disable_tqdm: true
runs:
  twin: {{model: {{twin: true}}}}
  spiking:
    task: {{type: distillation, teacher: run:twin, temperature: 1.0, alpha: 1.0, start: true, calibrate: 24,
      embeddings: false}}
    train: {{max_steps: 6, eval_steps: 3, learning_rate: 1e-4, neuron_learning_rate: 1e-3}}
"""


def write_files() -> None:
    """A tiny BERT, texts of two classes and the recipe `both.yaml`, in the working directory."""
    words = ["good", "fine", "great", "bad", "poor", "dull"]
    rows = [f"film {n} was {words[n % 6]} and {words[n % 3 + n % 6 // 3 * 3]}" for n in range(90)]
    lines = [f"{row}\t{'no' if n % 6 > 2 else 'yes'}" for n, row in enumerate(rows)]
    Path("train.tsv").write_text("\n".join(["sentence\tlabel", *lines[:72]]))
    Path("dev.tsv").write_text("\n".join(["sentence\tlabel", *lines[72:]]))
    tokens = wordpiece(texts=rows, vocab_size=90)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), max_position_embeddings=32, initializer_range=0.1, **SIZES)
    BertModel(config).save_pretrained("bert")
    tokens.save_pretrained("bert")
    Path("both.yaml").write_text(RECIPE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    with contextlib.chdir(folder):
        write_files()
    return folder


@pytest.fixture(scope="module")
def tuned(undrawn_in_module: None, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the twin, fine-tuned for a few steps."""
    folder = shutil.copytree(files, tmp_path_factory.mktemp("tuned"), dirs_exist_ok=True)
    with contextlib.chdir(folder):
        alone = dict(load("both.yaml", ["train.max_steps=4", "train.eval_steps=2"]).children())["twin"]
        Path("twin.yaml").write_text(alone.dump_yaml())
        assert run.execute(load("twin.yaml", ["output=twin"])) == 0
    return folder


@pytest.fixture(scope="module")
def both(undrawn_in_module: None, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the series `out`."""
    folder = shutil.copytree(files, tmp_path_factory.mktemp("both"), dirs_exist_ok=True)
    with contextlib.chdir(folder):
        assert run.execute(load("both.yaml", ["output=out", "train.weight_decay=0.01"])) == 0
    return folder


def copied(folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy as the working directory."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    monkeypatch.chdir(target)


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied(files, tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def trained(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(both, tmp_path, monkeypatch)


@pytest.fixture
def twin(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    copied(tuned, tmp_path, monkeypatch)
    return "twin"


@pytest.fixture
def student(twin: str) -> Callable[..., Any]:
    """The recipe of the student alone."""
    alone = dict(load("both.yaml").children())["spiking"]
    Path("student.yaml").write_text(alone.dump_yaml().replace("run:twin", twin))
    return lambda *changes: load("student.yaml", ["output=student", *changes])


# The series


@pytest.mark.usefixtures("trained")
def test_one_command_makes_twin_and_student() -> None:
    twin, student = (read_json(Path(f"out/{name}/metrics.json")) for name in ("twin", "spiking"))
    assert twin["dev.accuracy"] > 0.9
    assert student["dev.accuracy"] > 0.8, "it begins where the twin ends"
    errors = {name: value for name, value in student.items() if name.startswith("calibration.error.")}
    assert list(errors) == ["calibration.error.layer.0", "calibration.error.layer.1"]
    assert all(0 < value < 0.2 for value in errors.values())
    assert not [name for name in twin if name.startswith("calibration")]
    together = read_json(Path("out/metrics.json"))
    assert together["spiking"]["calibration.error.layer.0"]["mean"] == errors["calibration.error.layer.0"]
    assert "calibration.error.layer.0" in Path("out/spiking/report.html").read_text(encoding="utf-8")
    assert load("out/spiking/recipe.yaml").task["teacher"] == "out/twin"
    tables = [load_file(f"out/{name}/model/model.safetensors") for name in ("twin", "spiking")]
    for name, tensor in tables[0].items():
        if ".embeddings." in name:
            assert torch.equal(tables[1][name], tensor), f"{name}: embeddings stay as they are"
    assert not torch.equal(*(table["classifier.weight"] for table in tables))
    assert run.evaluate("out/spiking") == 0
    assert read_json(Path("out/spiking/eval.json"))["dev.accuracy"] == student["dev.accuracy"]


@pytest.mark.usefixtures("trained")
def test_a_trained_student_serves_in_a_pipeline_folded_or_not() -> None:
    folder = "out/spiking/model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)
    texts = ["film 3 was good and fine", "film 4 was bad", "a very long film " * 20]
    before = pipeline("text-classification", model=folder, device="cpu")(texts, truncation=True)
    assert {one["label"] for one in before} <= {"yes", "no"}
    model.fold()
    model.save_pretrained("folded")
    tokens.save_pretrained("folded")
    after = pipeline("text-classification", model="folded", device="cpu")(texts, truncation=True)
    for one, other in zip(before, after, strict=True):
        assert other == {"label": one["label"], "score": pytest.approx(one["score"], abs=1e-4)}


@pytest.mark.usefixtures("trained")
def test_a_trained_student_is_an_embedding_model() -> None:
    sentence_transformers: Any = pytest.importorskip("sentence_transformers", reason="sentence-transformers is absent")
    # its default is the mean
    embedder = sentence_transformers.SentenceTransformer("out/spiking/model", device="cpu")
    texts = ["film 3 was good", "film 4 was bad and poor and dull"]
    vectors = torch.as_tensor(embedder.encode(texts))
    tokens = AutoTokenizer.from_pretrained("out/spiking/model")(texts, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained("out/spiking/model").eval()
    with torch.no_grad():
        states = model.bert(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    torch.testing.assert_close(vectors, (states * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)
    embedder.save("embedder")
    again = sentence_transformers.SentenceTransformer("embedder", device="cpu")
    torch.testing.assert_close(torch.as_tensor(again.encode(texts)), vectors)


def test_steps_of_both_are_timed_once_the_twin_is_there(place: Path) -> None:
    with pytest.raises(UserError, match=r"task\.teacher: runs/both/twin is not a folder"):
        time_steps(load("both.yaml"), 1)
    assert run.execute(load("both.yaml", ["train.max_steps=2", "train.eval_steps=2"])) == 0
    timed, device = time_steps(load("both.yaml"), 1)
    assert (list(timed), device) == (["twin", "spiking"], "cpu")


# Where a student starts


def test_a_student_starts_with_its_teachers_tensors(student: Callable[..., Any]) -> None:
    teacher = load_file("twin/model/model.safetensors")
    for start in (True, False):
        job = assemble(student(f"task.start={start}", "task.calibrate=0"), Path("out"))
        equal = {name: torch.equal(job.model.state_dict()[name], tensor) for name, tensor in teacher.items()}
        assert equal["classifier.weight"] == start
        assert all(equal.values()) == start
        assert job.objective is not None
        assert job.objective.figures == {}
        assert job.objective.variances is None


def test_starts_that_are_refused(student: Callable[..., Any]) -> None:
    wide = build("twin", gelu=True)
    with pytest.raises(
        UserError,
        match=r"task\.start: \d+ tensors of the teacher have a different shape in the student, such as bert\.",
    ):
        start_from(build("bpsn", intermediate_size=32), wide)
    with pytest.raises(
        UserError, match=r"no place for 16 tensors of the teacher, such as bert\.encoder\.layer\.1\.attention\.output"
    ):
        start_from(build("bpsn", num_hidden_layers=1), wide)
    with pytest.raises(UserError, match=r"no place for .* such as .*\.node\..*; take a teacher that is its ANN twin"):
        start_from(wide, build("bpsn"))


def test_nothing_is_changed_by_a_start_that_is_refused() -> None:
    one = build("bpsn", num_hidden_layers=1)
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    with pytest.raises(UserError):
        start_from(one, build("twin"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_calibration_is_drawn_with_the_seed_and_is_the_same_again(student: Callable[..., Any]) -> None:
    figures = [assemble(student(f"seed={seed}"), Path("out")).objective.figures for seed in (0, 0, 1)]
    assert figures[0] == figures[1] != figures[2]
    every = [assemble(student(f"seed={seed}", "task.calibrate=5000"), Path("out")).objective.figures for seed in (0, 1)]
    assert every[0] == pytest.approx(every[1], rel=1e-3), "all sentences there are, in another order"


def test_prices_of_spikes_reach_calibration_and_loss(student: Callable[..., Any]) -> None:
    priced = ["task.spike_price=0.2", "task.firing=0.5"]
    losses = [assemble(student(*changes), Path("out")).objective for changes in ([], priced)]
    assert [loss.firing for loss in losses] == [0.0, 0.5]
    free, paid = (loss.figures["calibration.error.layer.0"] for loss in losses)
    assert free < paid < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task.calibrate=-1"], r"task\.calibrate: -1 sentences; give how many, or 0 for no calibration"),
        (["model.scaled=false"], r"calibration: a layer of BPSN has no grid to fit; .*set model\.scaled=true"),
        (["model.neuron=dsn"], "calibration: a layer of DSN has no grid to fit"),
        (["model.attention=ssa"], r"model 'snn_bert': ssa multiplies spikes as they are; set model\.scaled=false"),
        (["model.neuron.variant=R"], "calibration: BPSN: the lateral term of variant R"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_students_that_cannot_start_so(student: Callable[..., Any], changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run.execute(student(*changes), dry_run=True)


def test_a_stock_bert_teaches_but_calibrates_nothing(student: Callable[..., Any], place: Path) -> None:
    config = BertConfig.from_pretrained("bert")
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    BertForSequenceClassification(config).save_pretrained("stock")
    AutoTokenizer.from_pretrained("bert").save_pretrained("stock")
    teach = ["task.teacher=stock", "model.pooling=cls"]
    assert run.execute(student(*teach, "task.calibrate=0"), dry_run=True) == 0
    with pytest.raises(UserError, match="calibration: the teacher is not the student's ANN twin: BertForSequenceC"):
        run.execute(student(*teach), dry_run=True)


def test_no_sentences_to_calibrate_on(student: Callable[..., Any]) -> None:
    from sj_lang_language.tasks.distillation.start import calibrate

    job = assemble(student("task.calibrate=0"), Path("out"))
    model, ready = job.model, job.prepared
    ready.train = []
    with pytest.raises(UserError, match=r"task\.calibrate: the training data are empty"):
        calibrate(model, model, ready, 4, 0)
    ready.train = iter(())
    with pytest.raises(UserError, match=r"task\.calibrate: the training data are a stream"):
        calibrate(model, model, ready, 4, 0)
    with pytest.raises(UserError, match=r"task\.calibrate: BertModel has no `calibrate`; set task\.calibrate=0"):
        calibrate(BertModel.from_pretrained("bert"), model, ready, 4, 0)


def test_embeddings_stay_or_are_trained(student: Callable[..., Any]) -> None:
    for trained in (True, False):
        model = assemble(student(f"task.embeddings={trained}"), Path("out")).model
        learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        assert {value for name, value in learns.items() if ".embeddings." in name} == {trained}
        assert all(value for name, value in learns.items() if ".embeddings." not in name)


# The loss


def test_variances_divide_what_hidden_states_differ_by(student: Callable[..., Any]) -> None:
    """Against the equations written out, with the variances of
    the teacher's states on its sentences.
    """
    job = assemble(student("task.calibrate=5000", "task.temperature=2.0", "task.alpha=0.75"), Path("out"))
    loss, model = job.objective, job.model.eval()
    assert isinstance(loss, DistillationLoss)
    teacher = AutoModelForSequenceClassification.from_pretrained("twin/model").eval()
    data = [job.prepared.train[index] for index in range(len(job.prepared.train))]
    whole = job.prepared.collate(data)
    ask = {"output_hidden_states": True}
    inputs = {name: whole[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in whole}
    with torch.no_grad():
        states = teacher(**inputs, **ask).hidden_states
    valid = inputs["attention_mask"].bool()
    variances = [state[valid].var(0, correction=0).mean() for state in states]
    assert loss.variances == pytest.approx([float(one) for one in variances], rel=1e-4)

    batch = job.prepared.collate(data[:5])
    labels = batch["labels"]
    ours = model(**{k: v for k, v in batch.items() if k != "labels"}, labels=labels, **ask)
    with torch.no_grad():
        theirs = teacher(**{k: v for k, v in batch.items() if k in inputs}, **ask)
    target = torch.softmax(theirs.logits / 2, -1)
    soft = -4 * (target * torch.log_softmax(ours.logits / 2, -1)).sum(-1).mean()
    match = torch.zeros(())
    for mine, its, variance in zip(ours.hidden_states, theirs.hidden_states, variances, strict=True):
        for text, other, mask in zip(mine, its, batch["attention_mask"].bool(), strict=True):
            match = match + (text[mask] - other[mask]).square().mean() / variance / 5 / 3
    expected = 0.25 * ours.loss + 0.75 * (soft + match)
    torch.testing.assert_close(loss(ours, batch, None), expected, rtol=1e-4, atol=1e-5)


def gradients(recipe: Any, parts: int) -> dict[str, Tensor]:
    """Of one step on the same 16 texts, in `parts` micro-batches."""
    job = assemble(recipe, Path("out"))
    trainer = RunTrainer(job, Console(muted=True))
    trainer.create_optimizer()
    data = [job.prepared.train[index] for index in range(16)]
    size = 16 // parts
    batches = [trainer.data_collator(data[start : start + size]) for start in range(0, 16, size)]
    items = sum((batch["labels"] != -100).sum() for batch in batches)
    trainer.current_gradient_accumulation_steps = parts
    for place, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(place == parts - 1)
        trainer.training_step(job.model, batch, items)
    return {name: p.grad.clone() for name, p in job.model.named_parameters() if p.grad is not None}


def test_with_variances_it_is_exact_under_gradient_accumulation(student: Callable[..., Any]) -> None:
    whole, parts = (gradients(student("model.classifier_dropout=0.0"), parts) for parts in (1, 4))
    assert whole.keys() == parts.keys()
    assert any(name.endswith("neuron.scale") for name in whole)
    assert not any(".embeddings." in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_a_run_reference_in_a_single_run(student: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError,
        match=r"task\.teacher: run:twin is not a folder; it means another run of the same series, and this is",
    ):
        run.execute(student("task.teacher=run:twin"), dry_run=True)


def test_a_teacher_that_lost_its_weights(student: Callable[..., Any]) -> None:
    weights = load_file("twin/model/model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, "twin/model/model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"task\.teacher: twin was not trained for this task: .* it lacks classifier"):
        run.execute(student(), dry_run=True)
