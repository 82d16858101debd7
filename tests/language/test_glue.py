"""GLUE: every task from TSV and parquet, its figures, its submission; what is missing is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sj_lang_language.data import hub
from sj_lang_language.data.tables.glue_files import SPECS
from sj_lang_language.tasks.glue import Glue
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sj_lang import build
from sj_lang.errors import UserError
from sj_lang.hf import PATIENCE
from sj_lang.task import Prepared

NINE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
#: the header of each task's files as GLUE publishes them, and of its test file
HEADERS = {
    "cola": ("", "index\tsentence"),
    "sst2": ("sentence\tlabel", "index\tsentence"),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "index\t#1 ID\t#2 ID\t#1 String\t#2 String"),
    "stsb": ("index\tgenre\tsentence1\tsentence2\tscore", "index\tgenre\tsentence1\tsentence2"),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "mnli": ("index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label", "index\tpromptID\tsentence1\tsentence2"),
    "qnli": ("index\tquestion\tsentence\tlabel", "index\tquestion\tsentence"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}
_LABELS = {"label", "gold_label", "score", "Quality", "is_duplicate"}
_FIRST, _SECOND = {"#1 String", "sentence1", "question1", "question"}, {"#2 String", "sentence2", "question2"}


def label(name: str, n: int) -> str:
    spec = SPECS[name]
    if not spec.labels:
        return f"{n % 6}.000"
    return spec.labels[n % len(spec.labels)] if spec.named else str(n % 2)


def table(name: str, header: str, rows: range) -> str:
    lines = [header] if header else []
    for n in rows:
        if not header:
            lines.append(f'gj04\t{n % 2}\t*\tsome "words {n}')
            continue
        cells = []
        for column in header.split("\t"):
            if column in _LABELS:
                cells.append(label(name, n))
            elif column in _SECOND or (name == "qnli" and column == "sentence"):
                cells.append(f"other {n} words")
            else:
                cells.append(f'some "words {n}' if column in _FIRST or column == "sentence" else str(n))
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def layout(root: Path, name: str, *, test: bool = True) -> Path:
    spec, (header, blind) = SPECS[name], HEADERS[name]
    folder = root / spec.folder
    folder.mkdir(parents=True)
    files = {"train": range(60), "dev": range(60, 72)}
    if name == "mnli":
        files = {"train": range(60), "dev_matched": range(60, 72), "dev_mismatched": range(72, 81)}
    for stem, rows in files.items():
        (folder / f"{stem}.tsv").write_text(table(name, header, rows))
    for stem in ("test_matched", "test_mismatched") if name == "mnli" else ("test",):
        if test:
            (folder / f"{stem}.tsv").write_text(table(name, blind, range(100, 105)))
    return root


def prepare(name: str, tokenizer: Any = None, **options: Any) -> Prepared:
    made = tokenizer or build.part("tokenizer", {"type": "wordpiece", "vocab_size": 200})
    return Glue(name=name, **options).prepare(made, seed=0)


def one_token(*, texts: Any) -> PreTrainedTokenizerFast:
    """Every text is one token, which is quick."""
    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("name", NINE)
def test_every_task_from_tsv(name: str, tmp_path: Path) -> None:
    ready = prepare(name, data=str(layout(tmp_path, name)))
    spec = SPECS[name]
    assert len(ready.train) + len(ready.validation) == 60
    assert list(ready.tests) == (["dev", "dev_mm"] if name == "mnli" else ["dev"])
    item = ready.tests["dev"][1]
    words = ready.tokenizer.decode(item["input_ids"])
    assert 'some " words 61 [SEP]' in words
    assert ("other 61 words [SEP]" in words) == (len(spec.text) == 2)
    assert item["labels"] == (pytest.approx(1.0) if name == "stsb" else 61 % len(spec.labels))
    outputs = np.eye(max(1, len(spec.labels)))[np.zeros(12, int)] if spec.labels else np.linspace(0, 9, 12)[:, None]
    labels = np.array([ready.tests["dev"][i]["labels"] for i in range(12)])
    assert set(ready.metrics("dev", outputs, labels)) == {"loss", *spec.figures}
    assert ready.select == spec.figures[0]
    entropy, squares = "mean cross entropy of an example, in nats", "mean squared error of an example's score"
    assert ready.loss == (entropy if spec.labels else squares)
    assert ready.model["num_labels"] == max(1, len(spec.labels))
    assert ready.model["problem_type"] == ("single_label_classification" if spec.labels else "regression")
    baselines = ready.baselines()
    assert set(baselines) == {"bag_of_words", "majority"}
    assert all(set(found) >= {f"dev.{figure}" for figure in spec.figures} for found in baselines.values())


@pytest.mark.parametrize("name", NINE)
def test_submissions(name: str, tmp_path: Path) -> None:
    ready = prepare(name, data=str(layout(tmp_path, name)))
    spec = SPECS[name]
    for split in ["test", "test_mm"] if name == "mnli" else ["test"]:
        assert f"{split}: no labels, so it is predicted and not scored" in ready.notes
        assert any(f"{split}: 5 examples, but GLUE has {spec.rows[split]:,}" in note for note in ready.notes)
        count = spec.rows[split]
        outputs = np.eye(len(spec.labels) or 1)[np.arange(count) % (len(spec.labels) or 1)]
        if name == "stsb":
            outputs = np.linspace(-1, 6, count)[:, None]
        (file,) = made = ready.predictions(split, outputs, None)
        lines = made[file].split("\n")
        assert (lines[0], lines[-1]) == ("index\tprediction", "")
        assert len(lines) - 1 == LINES[file.removesuffix(".tsv")]
        values = [line.split("\t")[1] for line in lines[1:-1]]
        assert [line.split("\t")[0] for line in lines[1:-1]] == [str(n) for n in range(count)]
        if name == "stsb":
            assert (values[0], values[-1]) == ("0.000", "5.000")
        else:
            wanted = set(spec.labels) if name in ("mnli", "qnli", "rte") else {"0", "1"}
            assert set(values) == wanted


#: lines of a submission, the header among them, as GLUE's page of submissions has them
LINES = {
    "CoLA": 1064, "SST-2": 1822, "MRPC": 1726, "STS-B": 1380, "QQP": 390966, "MNLI-m": 9797, "MNLI-mm": 9848,
    "QNLI": 5464, "RTE": 3001, "WNLI": 147, "AX": 1105,
}  # fmt: skip


@pytest.mark.parametrize("name", NINE)
def test_every_task_from_parquet_is_the_same(name: str, tmp_path: Path) -> None:
    tsv = prepare(name, data=str(layout(tmp_path / "tsv", name)))
    spec, root = SPECS[name], tmp_path / "parquet"
    (root / name).mkdir(parents=True)
    ranges = {"train": range(60), "validation": range(60, 72), "test": range(100, 105)}
    if name == "mnli":
        ranges = {"train": range(60), "validation_matched": range(60, 72), "validation_mismatched": range(72, 81)}
        ranges |= {"test_matched": range(100, 105), "test_mismatched": range(100, 105)}
    for split, rows in ranges.items():
        columns: dict[str, list[Any]] = {"idx": list(rows)}
        for place, column in enumerate(spec.hub_text or spec.text):
            columns[column] = [f"other {n} words" if place else f'some "words {n}' for n in rows]
        known = not split.startswith("test")
        columns["label"] = [(n % 6 * 1.0 if name == "stsb" else n % len(spec.labels)) if known else -1 for n in rows]
        half = len(rows) // 2
        for shard, part in enumerate((slice(0, half), slice(half, None))):
            path = root / name / f"{split}-{shard:05d}-of-00002.parquet"
            pyarrow.parquet.write_table(pyarrow.table({key: value[part] for key, value in columns.items()}), path)
    ready = prepare(name, data=str(root))
    assert {part: ready.fingerprint[part] for part in ready.fingerprint if part != "data"} == {
        part: tsv.fingerprint[part] for part in tsv.fingerprint if part != "data"
    }
    assert prepare(name, data=str(root / name)).fingerprint["dev"] == ready.fingerprint["dev"]


def test_the_diagnostic_set(tmp_path: Path) -> None:
    root = layout(tmp_path, "mnli")
    with pytest.raises(UserError, match=r"no diagnostic set \(looked for AX/diagnostic\.tsv"):
        prepare("ax", data=str(root))
    assert "ax" not in prepare("mnli", data=str(root)).unlabelled
    (root / "AX").mkdir()
    text = "index\tsentence1\tsentence2\n" + "".join(f"{n}\ta {n}\tb {n}\n" for n in range(1104))
    (root / "AX" / "diagnostic.tsv").write_text(text)
    ready = prepare("ax", data=str(root))
    assert (list(ready.tests), list(ready.unlabelled)) == (["dev"], ["ax"])
    made = ready.predictions("ax", np.eye(3)[np.arange(1104) % 3], None)["AX.tsv"]
    assert len(made.splitlines()) == LINES["AX"]
    assert made.splitlines()[1:4] == ["0\tentailment", "1\tneutral", "2\tcontradiction"]
    assert list(prepare("mnli", data=str(root)).unlabelled) == ["test", "test_mm", "ax"]
    full = "Premise\tHypothesis\tLabel\n" + "".join(f"a {n}\tb {n}\t{label('mnli', n)}\n" for n in range(9))
    (tmp_path / "full.tsv").write_text(full)
    ready = prepare("ax", data=str(root), files={"ax": str(tmp_path / "full.tsv")})
    figures = ready.metrics("ax", np.eye(3)[np.arange(9) % 3], np.arange(9) % 3)
    assert (figures["matthews"], figures["accuracy"]) == (1, 1)


def test_files_one_by_one(tmp_path: Path) -> None:
    root = layout(tmp_path, "qqp", test=False)
    (root / "QQP" / "dev.tsv").rename(root / "QQP" / "dev_from_train.tsv")
    notes = prepare("qqp", data=str(root)).notes
    assert "dev: there is no dev.tsv, dev_from_train.tsv is used instead" in notes
    other = tmp_path / "other.tsv"
    other.write_text(table("qqp", HEADERS["qqp"][0], range(200, 204)) + "broken\tline\n")
    ready = prepare("qqp", data=str(root), files={"dev": str(other)})
    assert len(ready.tests["dev"]) == 4
    assert "dev: 1 lines with a wrong number of fields are left out" in ready.notes
    mapping = prepare("qqp", data={"train": str(root / "QQP" / "train.tsv"), "dev": str(other)})
    assert mapping.fingerprint["dev"] == ready.fingerprint["dev"]
    with pytest.raises(UserError, match=r"task\.files: unknown part 'deev'; did you mean 'dev'"):
        Glue(name="qqp", files={"deev": "x"})
    with pytest.raises(UserError, match=r"task\.files\.dev: no file .*gone"):
        prepare("qqp", data=str(root), files={"dev": str(tmp_path / "gone.tsv")})
    with pytest.raises(UserError, match=r"task\.files\.dev: no file .*gone\.parquet"):
        prepare("qqp", data=str(root), files={"dev": str(tmp_path / "gone.parquet")})


def test_what_is_missing(tmp_path: Path) -> None:
    root = layout(tmp_path, "mnli", test=False)
    (root / "MNLI" / "dev_mismatched.tsv").unlink()
    ready = prepare("mnli", data=str(root))
    assert list(ready.tests) == ["dev"]
    assert any("no mismatched dev set" in note and "dev_mm is not reported" in note for note in ready.notes)
    (root / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"MNLI has no dev_matched\.tsv .*name the file: task\.files\.dev=FILE"):
        prepare("mnli", data=str(root))
    with pytest.raises(UserError, match=r"has neither RTE/ \(TSV files\) nor rte/ .*it holds MNLI"):
        prepare("rte", data=str(root))
    with pytest.raises(UserError, match=r"task\.data: no folder .*nowhere"):
        prepare("rte", data=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        *(
            ("stsb", "dev", f"9\tnews\ta\tb\t{score}", f"line 14: score '{score}'; expected a number from 0 to 5")
            for score in ("nan", "5.5", "-1", "", "five")
        ),
        ("rte", "dev", "9\ta\tb\tcontradiction", "line 14: label 'contradiction'; expected one of the 2 labels"),
        (
            "cola",
            "dev",
            "b\tl",
            r"line 13: expected 4 fields \(source, label, mark, sentence\); 1 lines have a diff",
        ),
        # left out, it would move the lines after it in the submission
        ("qqp", "test", "b\tl", r"line 7: .*as in the header.* Quotes .* are taken as text$"),
    ],
)
def test_a_line_that_is_wrong(tmp_path: Path, name: str, file: str, line: str, message: str) -> None:
    root = layout(tmp_path, name)
    with (root / SPECS[name].folder / f"{file}.tsv").open("a") as end:
        end.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"{file}\.tsv, {message}"):
        prepare(name, data=str(root))


def test_constant_scores_have_no_correlation_and_a_remark(tmp_path: Path) -> None:
    ready = prepare("stsb", data=str(layout(tmp_path, "stsb")))
    figures = ready.metrics("dev", np.full((12, 1), 2.0), np.arange(12) % 6)
    assert (figures["pearson"], figures["spearman"]) == (0, 0)
    assert ready.remarks == ["dev: all predictions are the same, so the correlation is set to 0"]


def test_without_a_network_the_hub_is_one_sentence_at_once(offline: Callable[[], float]) -> None:
    with pytest.raises(UserError) as caught:
        prepare("rte")
    assert offline() < PATIENCE + 2
    assert "hub:nyu-mll/glue/rte cannot be loaded: the Hugging Face hub cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    labels = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": labels}
    )

    def rows(count: int, known: bool = True) -> datasets.Dataset:
        numbers = [n % 3 if known else -1 for n in range(count)]
        columns = {"premise": [f"a {n}" for n in range(count)], "hypothesis": ["b"] * count, "label": numbers}
        return datasets.Dataset.from_dict(columns, features=features)

    asked = []

    def load(place: str) -> dict[str, datasets.Dataset]:
        asked.append(place)
        if place.endswith("/ax"):
            return {"test": rows(6, known=False)}
        known = {"train": rows(40), "validation_matched": rows(9), "validation_mismatched": rows(12)}
        return known | {"test_matched": rows(3, known=False), "test_mismatched": rows(4, known=False)}

    monkeypatch.setattr(hub, "load", load)
    ready = prepare("mnli")
    assert asked == ["hub:nyu-mll/glue/mnli", "hub:nyu-mll/glue/ax"]
    assert {name: len(part) for name, part in ready.tests.items()} == {"dev": 9, "dev_mm": 12}
    assert {name: len(part) for name, part in ready.unlabelled.items()} == {"test": 3, "test_mm": 4, "ax": 6}
    assert ready.tests["dev"][2]["labels"] == 2
    assert list(prepare("ax", data="hub:owner/copy").unlabelled) == ["ax"]
    assert asked[2:] == ["hub:owner/copy/mnli", "hub:owner/copy/ax"]


@pytest.mark.parametrize("name", NINE)
def test_the_real_files(name: str) -> None:
    data = os.environ.get("SJ_LANG_DATA")
    if not data:
        pytest.skip("SJ_LANG_DATA, the folder of the real data, is not set")
    words = None if name in ("cola", "rte", "wnli") else one_token
    # phrases: test_phrases.py
    ready = prepare(name, words, data=data, length=64, baselines=False, phrases=False)
    sizes = {"cola": 522, "sst2": 436, "mrpc": 204, "stsb": 750, "qqp": 1748, "mnli": 4908}
    sizes |= {"qnli": 2732, "rte": 139, "wnli": 71}
    assert len(ready.tests["dev"]) == sizes[name]
    assert ("test" in ready.tests) == (name in ("mrpc", "stsb"))
    if name == "mnli":
        columns = prepare(
            name, one_token, data=data, files={"train": f"{data}/MNLI/train_glue_columns.tsv"}, validation=48
        )
        assert len(columns.train) == 432
