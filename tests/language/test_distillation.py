"""Distillation: equations, exactness under accumulation, what is stored, wrong teachers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sj_lang_language.tasks.distillation import Distillation
from sj_lang_language.tasks.distillation.loss import DistillationLoss
from sj_lang_language.tasks.masked_lm import MaskedLM
from stock_bert import (
    StockConfig,
    StockForMaskedLM,
    StockForPreTraining,
    StockForSequenceClassification,
    offered,
    write_recipe,
)
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sj_lang import build
from sj_lang.errors import Unreachable, UserError
from sj_lang.recipe import load
from sj_lang.run import execute
from sj_lang.run.assembly import assemble

TEXT = "\n\n".join(
    "".join(f"{verse} and {line} green bottles hanging on the wall of house {verse * line}.\n" for line in range(4))
    for verse in range(60)
)
WIDE = {"hidden_size": 24, "num_hidden_layers": 4}


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with offered():
        yield


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


@pytest.fixture
def tokenizer(book: Path) -> Any:
    task = MaskedLM(data=str(book), length=16, split=[0.8, 0.1, 0.1])
    return task.prepare(build.part("tokenizer", {"type": "wordpiece", "vocab_size": 120}), seed=0).tokenizer


@pytest.fixture
def teacher(tokenizer: Any, tmp_path: Path) -> Callable[..., str]:
    """Store a random teacher, wider and deeper than the student, and a tokenizer;
    return the folder.
    """

    def make(kind: Any = StockForMaskedLM, name: str = "teacher", own: Any = None, **changes: Any) -> str:
        torch.manual_seed(7)
        own = own or tokenizer
        options = {"vocab_size": len(own), "max_position_embeddings": 16, **WIDE, **changes}
        model = kind(StockConfig(**options))
        model.save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


def recipe(tmp_path: Path, book: Path, place: str, *changes: str) -> Any:
    path = write_recipe(tmp_path, book)
    text = Path(path).read_text(encoding="utf-8")
    inner = text.split("task: ")[1].split("\n")[0]
    Path(path).write_text(
        text.replace(inner, f"{{type: distillation, task: {inner}, teacher: {place}}}"), encoding="utf-8"
    )
    return load(path, changes)


# Equations


def test_the_loss_is_what_the_page_says() -> None:
    """Against the equations, sample by sample, with padding, in two layers of another width."""
    torch.manual_seed(0)
    options = {"vocab_size": 30, "max_position_embeddings": 8, "hidden_dropout_prob": 0.0}
    student = StockForMaskedLM(StockConfig(**options)).eval()
    teacher = StockForMaskedLM(StockConfig(**options, **WIDE)).eval()
    loss = DistillationLoss(
        student=student, teacher=teacher, labels=["labels"], temperature=3.0, alpha=0.25, hidden=True
    )
    assert loss.layers == [0, 2, 4]
    batch = {"input_ids": torch.randint(5, 30, (3, 8)), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    batch["attention_mask"][1, 5:] = 0
    labels = torch.full((3, 8), -100)
    for place in ((0, 1), (0, 4), (1, 2), (2, 7)):
        labels[place] = int(batch["input_ids"][place])
    ours = student(**batch, labels=labels, output_hidden_states=True)
    theirs = teacher(**batch, output_hidden_states=True)
    found = loss(ours, {**batch, "labels": labels}, None)

    soft, match, count = torch.zeros(()), torch.zeros(()), 4
    for b in range(3):
        for t in range(8):
            if labels[b, t] >= 0:
                target = torch.softmax(theirs.logits[b, t] / 3, 0)
                soft = soft - 9 * (target * torch.log_softmax(ours.logits[b, t] / 3, 0)).sum() / count
        valid = batch["attention_mask"][b].bool()
        scored = int((labels[b] >= 0).sum())
        for own, other in ((0, 0), (1, 2), (2, 4)):
            moved = ours.hidden_states[own][b][valid] @ loss.projections[own].weight.T
            match = match + (moved - theirs.hidden_states[other][b][valid]).square().mean() * scored / count / 3
    own = functional.cross_entropy(ours.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(found, 0.75 * own + 0.25 * (soft + match))


def test_a_teacher_that_is_the_student_leaves_nothing_to_match() -> None:
    torch.manual_seed(0)
    model = StockForMaskedLM(StockConfig(vocab_size=30, max_position_embeddings=8)).eval()
    loss = DistillationLoss(student=model, teacher=model, labels=["labels"], temperature=1.0, alpha=1.0, hidden=True)
    assert not list(loss.parameters())
    batch = {"input_ids": torch.randint(5, 30, (2, 8))}
    labels = batch["input_ids"].clone()
    out = model(**batch, labels=labels, output_hidden_states=True)
    entropy = -(out.logits.softmax(-1) * out.logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss(out, {**batch, "labels": labels}, None), entropy)


# Accumulation


def gradients(recipe_: Any, tmp_path: Path, parts: int, processes: int = 1) -> dict[str, Tensor]:
    """Of one step on the same 16 windows, in `parts` micro-batches."""
    from sj_lang.run.console import Console
    from sj_lang.run.trainer import RunTrainer

    job = assemble(recipe_, tmp_path / "run")
    trainer = RunTrainer(job, Console())
    trainer.create_optimizer()
    data = [job.prepared.train[i] for i in range(16)]
    for position, item in enumerate(data):  # micro-batches with very different numbers of labels
        item["labels"] = torch.where(torch.arange(16) > position, torch.tensor(-100), item["input_ids"])
    size = 16 // parts
    batches = [job.prepared.collate(data[i : i + size]) for i in range(0, 16, size)]
    items = sum((batch["labels"] != -100).sum() for batch in batches)
    trainer.current_gradient_accumulation_steps = parts
    for place, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(place == parts - 1)
        trainer.training_step(job.model, batch, items)
    return {name: p.grad.clone() for name, p in job.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("hidden", [True, False])
def test_it_is_exact_under_gradient_accumulation(
    tmp_path: Path, book: Path, teacher: Callable[..., str], hidden: bool
) -> None:
    still = ["model.hidden_dropout_prob=0.0", "model.attention_probs_dropout_prob=0.0", f"task.hidden={hidden}"]
    made = recipe(tmp_path, book, teacher(), *still)
    whole, parts = (gradients(made, tmp_path, parts) for parts in (1, 4))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("objective.projections") for name in whole) == hidden
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


# Runs


def test_a_run_comes_nearer_to_its_teacher_and_stores_the_student_alone(
    tmp_path: Path, book: Path, teacher: Callable[..., str]
) -> None:
    place = teacher()
    before = {name: value.clone() for name, value in load_file(f"{place}/model.safetensors").items()}
    steps = ["train.max_steps=60", "train.eval_steps=30", "task.alpha=1.0"]
    execute(recipe(tmp_path, book, place, *steps, "output=out"))
    execute(recipe(tmp_path, book, place, *steps, "output=again"))
    stored = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert not [name for name in stored if "objective" in name or "projection" in name]
    kept = load_file(sorted((tmp_path / "out").glob("checkpoint-*"))[-1] / "model.safetensors")
    assert [name for name in kept if name.startswith("objective.projections")]
    student, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert student.config.hidden_size == 16
    after = load_file(f"{place}/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train.loss"] for line in lines if "train.loss" in line]
    assert losses[-1] < losses[0]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["parameters.total"] == sum(p.numel() for p in student.parameters())
    page = (tmp_path / "out" / "report.html").read_text()
    # not of train.loss
    assert page.count("mean negative log likelihood of a masked token, in nats") == 2
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["test.loss"] == figures["test.loss"]


def test_a_stored_run_is_evaluated_without_its_teacher(tmp_path: Path, book: Path, teacher: Callable[..., str]) -> None:
    import shutil

    from sj_lang.run import evaluate

    place = teacher()
    execute(recipe(tmp_path, book, place, "output=out"))
    shutil.rmtree(place)
    evaluate(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert found["test.loss"] == json.loads((tmp_path / "out" / "metrics.json").read_text())["test.loss"]


def test_a_resume_with_another_teacher_is_refused(
    tmp_path: Path, book: Path, teacher: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = teacher()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sj_lang.run.single._train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(recipe(tmp_path, book, place, "output=out"))
    teacher(hidden_dropout_prob=0.3)
    changed = r"something else that it reads has(.|\n)*task\.teacher: '\w{64}' there, '\w{64}' now"
    with pytest.raises(UserError, match=changed):
        execute(load("out/recipe.yaml"), resume="out")
    assert execute(load("out/recipe.yaml"), resume="out", changed_data=True) == 0


def test_the_teacher_of_pre_training_teaches_both_heads(
    tmp_path: Path, book: Path, teacher: Callable[..., str]
) -> None:
    place = teacher(StockForPreTraining)
    changes = ["task.task.nsp=true", "output=out"]
    assert execute(recipe(tmp_path, book, place, *changes)) == 0
    assert "test.nsp_accuracy" in json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_a_run_folder_is_a_teacher(tmp_path: Path, book: Path, teacher: Callable[..., str]) -> None:
    execute(recipe(tmp_path, book, teacher(), "output=first"))
    assert execute(recipe(tmp_path, book, "first", "output=second"), dry_run=True) == 0


# Teachers that do not fit


def test_teachers_that_do_not_fit(
    tmp_path: Path, book: Path, teacher: Callable[..., str], offline: Callable[[], float]
) -> None:
    other = AutoTokenizer.from_pretrained(teacher())
    other.add_tokens(["zebra"])
    bare = tmp_path / "bare"
    bare.mkdir()
    cut_off = teacher(name="cut")
    weights = Path(cut_off, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    cases = {
        teacher(name="other", own=other): r"a different vocabulary from the student: 121 tokens against 120, 1 of them",
        teacher(StockForSequenceClassification, name="classes"): r"was not trained for this task: .* lacks cls",
        teacher(name="short", max_position_embeddings=8): r"reads 8 tokens at most, but the task has 16",
        str(bare): r"holds no model",
        cut_off: r"task\.teacher: .*cut.* cannot be loaded as .*incomplete",
        "./nowhere": r"\./nowhere is not a folder",
    }
    for place, message in cases.items():
        with pytest.raises(UserError, match=message):
            execute(recipe(tmp_path, book, place), dry_run=True)
    with pytest.raises(Unreachable, match=r"task.teacher: no model in hub:owner/name.*cannot be reached"):
        execute(recipe(tmp_path, book, "hub:owner/name", "output=out"))
    assert not (tmp_path / "out").exists()
    assert offline() < 60


def test_a_teacher_that_splits_words_in_another_way(tmp_path: Path, book: Path, teacher: Callable[..., str]) -> None:
    from sj_lang_language.tokenizers.wordpiece import assembled

    own = AutoTokenizer.from_pretrained(teacher())
    cased = assembled(own.get_vocab(), lowercase=False)
    with pytest.raises(UserError, match="splits text differently"):
        execute(recipe(tmp_path, book, teacher(name="cased", own=cased)), dry_run=True)


def test_mistakes_of_the_wrapped_task_name_their_key(tmp_path: Path, book: Path, teacher: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"task\.task\.split"):
        recipe(tmp_path, book, teacher(), "task.task.split=[1, 1, 1]")
    with pytest.raises(UserError, match="alpha 2"):
        recipe(tmp_path, book, teacher(), "task.alpha=2")
    missing = Distillation(task=build.part("task", {"type": "masked_lm"}), teacher="x")
    with pytest.raises(UserError, match=r"task\.task\.data is not set"):
        missing.prepare(build.part("tokenizer", "wordpiece"), seed=0)


def test_there_is_nothing_to_smooth(tmp_path: Path, book: Path, teacher: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"train\.label_smoothing_factor: only"):
        execute(recipe(tmp_path, book, teacher(), "train.label_smoothing_factor=0.1"), dry_run=True)


def test_a_student_without_hidden_states() -> None:
    from sj_lang_language.tasks.distillation.loss import DistillationLoss
    from transformers import BertConfig, BertForMaskedLM

    class Mute(BertForMaskedLM):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
            return super().forward(input_ids, attention_mask)

    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    options = {"labels": ["labels"], "temperature": 1.0, "alpha": 0.5, "hidden": True}
    with pytest.raises(UserError, match=r"the student, Mute, does not return hidden states; set task\.hidden=false"):
        DistillationLoss(student=Mute(config), teacher=BertForMaskedLM(config), **options)
