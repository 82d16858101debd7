"""The task: parts, labels, cuts, repetitions and everything that can be wrong with a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sj_lang_language.data import hub
from sj_lang_language.data.tables import examples, table_files
from sj_lang_language.tasks.text_classification import TextClassification

from sj_lang import build
from sj_lang.errors import UserError
from sj_lang.task import Prepared

WORDS = ["good", "fine", "great", "nice"], ["bad", "poor", "awful", "dull"]


def rows(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Sentences, all different, whose label can be told by a word."""
    return [(f"film {n} is {WORDS[n % 2][n % 4]} and {n}", ["pos", "neg"][n % 2]) for n in range(start, start + count)]


def tsv(path: Path, pairs: list[tuple[str, ...]], header: str = "sentence\tlabel") -> str:
    path.write_text("\n".join([header, *("\t".join(pair) for pair in pairs)]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {"train": tsv(tmp_path / "train.tsv", rows(60)), "dev": tsv(tmp_path / "dev.tsv", rows(20, 100))}


def prepare(tokenizer: Any = None, **options: Any) -> Prepared:
    spec = tokenizer or {"type": "wordpiece", "vocab_size": 200}
    return TextClassification(**options).prepare(build.part("tokenizer", spec), seed=0)


def sentences(ready: Prepared, data: Any) -> list[str]:
    return [ready.tokenizer.decode(data[i]["input_ids"], skip_special_tokens=True) for i in range(len(data))]


def test_what_is_given_is_used_and_only_validation_is_cut(files: dict[str, str]) -> None:
    ready = prepare(data=files)
    assert (len(ready.train), len(ready.validation), len(ready.tests["dev"])) == (54, 6, 20)
    assert set(sentences(ready, ready.train)).isdisjoint(sentences(ready, ready.validation))
    labels = [ready.validation[i]["labels"] for i in range(6)]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    assert ready.model["id2label"] == {0: "neg", 1: "pos"}
    assert ready.model["label2id"] == {"neg": 0, "pos": 1}
    assert ready.model["num_labels"] == 2
    assert ready.model["problem_type"] == "single_label_classification"
    assert ready.model["vocab_size"] == len(ready.tokenizer)
    assert (ready.model["max_position_embeddings"], ready.model["type_vocab_size"]) == (128, 2)
    assert ready.model["pad_token_id"] == ready.tokenizer.pad_token_id == 0
    assert (ready.select, ready.greater_is_better) == ("accuracy", True)
    assert ready.loss == "mean cross entropy of an example, in nats"
    assert "2 labels: neg, pos" in ready.notes
    again = prepare(data=files)
    assert sentences(again, again.validation) == sentences(ready, ready.validation)
    assert again.fingerprint == ready.fingerprint


def test_batches_are_padded_to_their_longest(files: dict[str, str]) -> None:
    ready = prepare(data=files)
    short, long = {"input_ids": [2, 9, 3], "labels": 0}, ready.train[0]
    batch = ready.collate([{**long, **{k: v[:3] for k, v in long.items() if k != "labels"}, **short}, long])
    assert batch["input_ids"].shape == (2, len(long["input_ids"]))
    assert batch["attention_mask"][0].tolist() == [1, 1, 1] + [0] * (len(long["input_ids"]) - 3)
    assert batch["labels"].tolist() == [0, long["labels"]]


def test_without_dev_both_parts_are_cut_from_train(tmp_path: Path) -> None:
    train = tsv(tmp_path / "all.tsv", rows(100))
    ready = prepare(data=train)
    parts = [sentences(ready, data) for data in (ready.train, ready.validation, ready.tests["dev"])]
    assert len(parts[2]) == 10
    assert abs(len(parts[1]) - 9) <= 1
    assert sum(map(len, parts)) == len({text for part in parts for text in part}) == 100
    other = prepare(data=train, validation=20)
    assert len(other.validation) == 20
    assert sentences(other, other.tests["dev"]) == parts[2], "dev does not depend on the share of validation"
    assert any("no dev: 10 examples are cut" in note for note in ready.notes)
    with pytest.raises(UserError, match="no dev and no labelled test"):
        prepare(data=train, dev=0)


def test_equal_texts_never_fall_on_both_sides(tmp_path: Path) -> None:
    ready = prepare(data=tsv(tmp_path / "all.tsv", rows(30) * 4), validation=0.3)
    train, validation, dev = (
        set(sentences(ready, part)) for part in (ready.train, ready.validation, ready.tests["dev"])
    )
    assert train & validation == train & dev == validation & dev == set()
    assert len(train | validation | dev) == 30


def test_a_test_with_labels_is_scored_and_one_without_is_predicted(tmp_path: Path, files: dict[str, str]) -> None:
    labelled = tsv(tmp_path / "test.tsv", rows(5, 200))
    assert list(prepare(data={**files, "test": labelled}).tests) == ["dev", "test"]
    for header, pairs in (
        ("sentence", [(text,) for text, _ in rows(5, 200)]),
        ("sentence\tlabel", [(text, "-1") for text, _ in rows(5, 200)]),
        ("sentence\tlabel", [(text, "") for text, _ in rows(5, 200)]),
    ):
        blank = tsv(tmp_path / "blank.tsv", pairs, header)
        ready = prepare(data={**files, "test": blank})
        assert (list(ready.tests), list(ready.unlabelled)) == (["dev"], ["test"])
        assert "labels" not in ready.unlabelled["test"][0]
        assert "test: no labels, so it is predicted and not scored" in ready.notes
        made = ready.predictions("test", np.eye(2)[[0, 1, 1, 0, 1]], None)
        assert made == {"test.tsv": "index\tprediction\n0\tneg\n1\tpos\n2\tpos\n3\tneg\n4\tpos\n"}
    held_out = prepare(data={"train": files["train"], "test": labelled})
    assert list(held_out.tests) == ["test"], "a labelled test is enough, dev is not cut"


def test_pairs(tmp_path: Path) -> None:
    pairs = [(f"a {n}", f"b {n}", str(n % 2)) for n in range(40)]
    ready = prepare(data=tsv(tmp_path / "p.tsv", pairs, "first\tsecond\tlabel"), text=["first", "second"])
    item = ready.train[0]
    assert ready.tokenizer.convert_ids_to_tokens(item["input_ids"]).count("[SEP]") == 2
    assert sorted(set(item["token_type_ids"])) == [0, 1]
    with pytest.raises(UserError, match=r"task\.text: .*two for a pair"):
        TextClassification(text=["a", "b", "c"])


def test_figures_with_and_without_what_also_stands_in_train(tmp_path: Path, files: dict[str, str]) -> None:
    dev = tsv(tmp_path / "twice.tsv", [*rows(3), *rows(5, 100)])
    ready = prepare(data={**files, "dev": dev})
    assert any("dev: 3 of 8 examples also occur in train; dev.unseen.*" in note for note in ready.notes)
    labels = np.array([ready.tests["dev"][i]["labels"] for i in range(8)])
    made = labels.copy()
    made[[0, 7]] = 1 - made[[0, 7]]
    found = ready.metrics("dev", np.eye(2)[made] * 3, labels)
    assert found["accuracy"] == 6 / 8
    assert found["unseen.accuracy"] == 4 / 5
    logits = torch.tensor(np.eye(2)[made] * 3)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert found["loss"] == pytest.approx(wanted)
    assert set(found) >= {"f1", "f1_macro", "matthews", "unseen.f1", "unseen.f1_macro", "unseen.matthews"}
    majority = ready.baselines()["majority"]
    assert majority["dev.accuracy"] == (labels == 0).mean()
    assert majority["dev.unseen.accuracy"] == (labels[3:] == 0).mean()
    assert ready.metrics("validation", np.eye(2)[made], labels).keys() == {
        "loss",
        "accuracy",
        "f1",
        "f1_macro",
        "matthews",
    }
    assert ready.remarks == []
    ready.metrics("dev", np.ones((8, 1)) * [[0.0, 1.0]], labels)
    assert ready.remarks == ["dev: all predictions are the same, so the correlation is set to 0"]


def test_the_worst_errors_come_first_and_say_what_was_expected(tmp_path: Path, files: dict[str, str]) -> None:
    ready = prepare(data={**files, "dev": tsv(tmp_path / "few.tsv", rows(4, 100))})
    labels = np.array([ready.tests["dev"][i]["labels"] for i in range(4)])
    surely = np.array([1.0, 5, 3, -2])[:, None]  # the last one is right
    lines = ready.errors("dev", surely * np.eye(2)[1 - labels], labels)
    texts = [text for text, _ in rows(4, 100)]
    names = ("neg", "pos")
    assert lines == [f"{names[labels[i]]}, not {names[1 - labels[i]]}: {texts[i]}" for i in (1, 2, 0)]


def test_baselines(files: dict[str, str]) -> None:
    found = prepare(data=files).baselines()
    assert found["majority"]["dev.accuracy"] == 0.5
    assert found["bag_of_words"]["dev.accuracy"] == 1.0
    assert prepare(data=files, baselines=False).baselines is None


def test_long_and_empty_texts_are_counted(tmp_path: Path, files: dict[str, str]) -> None:
    dev = tsv(tmp_path / "odd.tsv", [("word " * 50, "pos"), ("", "neg"), ("  ", "pos"), ("short", "neg")])
    ready = prepare(data={**files, "dev": dev}, length=16)
    assert "dev: 1 of 4 texts are longer than 16 tokens and lose their end" in ready.notes
    assert f"dev: 2 texts are empty, the first is {tmp_path}/odd.tsv, line 3" in ready.notes
    items = [ready.tests["dev"][i]["input_ids"] for i in range(4)]
    assert [len(ids) for ids in items] == [16, 2, 2, len(items[3])]
    assert ready.tokenizer.convert_ids_to_tokens(items[0])[-1] == "[SEP]"
    with pytest.raises(UserError, match=r"odd\.tsv, line 3: an empty text, for which this tokenizer produces no token"):
        prepare("characters", data={**files, "dev": dev})
    with pytest.raises(UserError, match=r"task\.length is 4"):
        prepare(data=files, length=4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\tmaybe", r"task\.label: .*odd\.tsv, line 2: label 'maybe'; expected one of the 2 labels; .*neg, pos"),
        ("a\t", r"task\.label: .*odd\.tsv, line 2: no label"),
        ("a", r"odd\.tsv, line 2: expected 2 fields"),
    ],
)
def test_a_wrong_row_of_dev_is_named(tmp_path: Path, files: dict[str, str], line: str, message: str) -> None:
    (tmp_path / "odd.tsv").write_text(f"sentence\tlabel\n{line}\n")
    with pytest.raises(UserError, match=message):
        prepare(data={**files, "dev": str(tmp_path / "odd.tsv")})


def test_wrong_columns_missing_files_and_labels_that_are_none(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"task\.text: .*train\.tsv has no column 'text'; .*label, sentence"):
        prepare(data=files, text="text")
    with pytest.raises(UserError, match=r"task\.label: .*no column 'labl'; did you mean 'label'"):
        prepare(data=files, label="labl")
    with pytest.raises(UserError, match=r"no file .*gone\.tsv"):
        prepare(data={**files, "dev": str(tmp_path / "gone.tsv")})
    with pytest.raises(UserError, match=r"task\.data is not set: .*task\.data\.train="):
        prepare()
    with pytest.raises(UserError, match="no 'train', only dev"):
        prepare(data={"dev": files["dev"]})
    with pytest.raises(UserError, match=r"line 3: no label"):
        prepare(data=tsv(tmp_path / "a.tsv", [("a", "0"), ("b", ""), ("c", "1")]))
    with pytest.raises(UserError, match="all labels are '0'"):
        prepare(data=tsv(tmp_path / "a.tsv", [("a", "0"), ("b", "0")]))
    with pytest.raises(UserError, match="8 different values in 8 rows, which are not classes"):
        prepare(data=tsv(tmp_path / "a.tsv", [(f"a{n}", f"{n / 7}") for n in range(8)]))
    notes = prepare(
        data=tsv(tmp_path / "a.tsv", [(f"a{n}", f"{n % 15 / 7:.2f}") for n in range(60)]), dev=20, validation=0
    ).notes
    assert notes[1] == "that is one for every 4.0 rows: are they classes?"
    with pytest.raises(UserError, match=r"task\.validation: 1\.5"):
        TextClassification(validation=1.5)
    with pytest.raises(
        UserError, match=r"task\.validation: cannot cut 60 off 60 examples; expected a share below 1, or"
    ):
        prepare(data=files, validation=60)
    with pytest.raises(UserError, match=r"task\.dev: cannot cut 60 off 60 examples"):
        prepare(data=files["train"], dev=60)
    same = tsv(tmp_path / "a.tsv", [("one text", "0"), ("one text", "1")] * 20)
    with pytest.raises(UserError, match=r"^task\.dev: cannot cut 0\.1 off 40 examples \(1 different ones\)$"):
        prepare(data=same)


@pytest.mark.parametrize(("classes", "each"), [(2, 6), (3, 4), (50, 5), (200, 5)])
def test_classes_too_small_for_their_share_are_cut_too(tmp_path: Path, classes: int, each: int) -> None:
    pairs = [(f"text {n} of {name}", f"c{name:03}") for name in range(classes) for n in range(each)]
    count, ready = len(pairs), prepare(data=tsv(tmp_path / "a.tsv", pairs))
    sizes = {"dev": len(ready.tests["dev"]), "validation": len(ready.validation)}
    assert abs(sizes["dev"] - count / 10) <= 1
    assert abs(sizes["validation"] - (count - sizes["dev"]) / 10) <= 1
    taken = [ready.validation[i]["labels"] for i in range(sizes["validation"])]
    assert len(set(taken)) == len(taken)
    assert {ready.train[i]["labels"] for i in range(len(ready.train))} == set(range(classes))


def test_room_is_each_labels_share_and_no_label_loses_its_only_example() -> None:
    assert examples.room_for(np.array([0] * 70 + [1] * 30), 10) == {0: 7, 1: 3}
    assert examples.room_for(np.array([0] * 95 + [1] * 3 + [2] * 2), 10) == {0: 10, 1: 0, 2: 0}
    assert examples.room_for(np.array([0] * 88 + [1] * 4 + [2] * 4 + [3] * 4), 10) == {0: 9, 1: 1, 2: 0, 3: 0}
    assert examples.room_for(np.array(["a", "b", "c", "c"]), 1.2) == {"a": 0, "b": 0, "c": 1}
    assert examples.room_for(np.array(["a", "b", "c", "d"]), 2) == dict.fromkeys("abcd", 0)


def test_values_that_are_no_text(tmp_path: Path) -> None:
    def noted(value: str) -> list[str]:
        lines = [f'{{"sentence": "{a}", "label": "{b}"}}' for a, b in rows(40)]
        (tmp_path / "a.jsonl").write_text("\n".join([f'{{"sentence": {value}, "label": "pos"}}', *lines]))
        return prepare(data=str(tmp_path / "a.jsonl"), dev=1, validation=1).notes

    assert any("empty" in note for note in noted("NaN"))
    assert any("empty" in note for note in noted("null"))
    assert not any("empty" in note for note in noted("7"))
    with pytest.raises(UserError, match=r"task\.text: .*a\.jsonl, line 1: 'sentence' is a list; expected a text"):
        noted('["a", "b"]')
    with pytest.raises(UserError, match=r"line 1: 'sentence' is a dict"):
        noted('{"a": 1}')
    table = table_files.of_columns({"sentence": ["häßlich".encode(), "schön"], "label": ["0", "1"]}, "memory")
    kind = examples.Classes.of("01")
    keys = ("task.text", "task.label")
    assert examples.of_table(table, ["sentence"], "label", kind, keys=keys).first == ["häßlich", "schön"]
    table.columns["sentence"][1] = b"\xff"
    with pytest.raises(UserError, match=r"memory, row 2: bytes of 'sentence' that are not UTF-8"):
        examples.of_table(table, ["sentence"], "label", kind, keys=keys)


@pytest.mark.parametrize(("label", "found"), [("[1]", "list"), ('{"a": 1}', "dict")])
def test_labels_that_are_no_names(label: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"sentence": "{a}", "label": {label}}}\n' for a, _ in rows(9)))
    with pytest.raises(UserError, match=rf"task\.label: .*a\.jsonl, line 1: a {found}; expected a name or a number"):
        prepare(data=str(tmp_path / "a.jsonl"))


def test_long_labels_are_cut_in_notes(tmp_path: Path) -> None:
    long = [(text, label * 10_000) for text, label in rows(40)]
    assert prepare(data=tsv(tmp_path / "a.tsv", long)).notes[0] == f"2 labels: {'neg' * 19}..., {'pos' * 19}..."


def test_a_folder_and_csv_with_quotes(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("valid", 100), ("dev", 200)):
        text = "".join(f'"{a}, ""q""",{b}\n' for a, b in rows(20, start))
        (tmp_path / f"{name}.csv").write_text("sentence,label\n" + text)
    ready = prepare(data=str(tmp_path))
    assert (len(ready.train), len(ready.validation), list(ready.tests)) == (20, 20, ["dev"])
    assert ready.tokenizer.tokenize('good, "q"')[-1] == '"'
    (tmp_path / "train.tsv").write_text("")
    with pytest.raises(UserError, match=r"two files for 'train', train\.csv and train\.tsv"):
        prepare(data=str(tmp_path))


def test_a_folder_as_the_hub_has_it_and_what_nothing_reads(tmp_path: Path) -> None:
    def parquet(name: str, start: int) -> None:
        texts, labels = zip(*rows(20, start), strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"sentence": texts, "label": labels}), tmp_path / f"{name}.parquet")

    for shard in (0, 1):
        parquet(f"train-0000{shard}-of-00002", 100 * shard)
    parquet("dev-00000-of-00001", 200)
    tsv(tmp_path / "val.tsv", rows(10, 300))
    tsv(tmp_path / "more.tsv", rows(10, 400))
    ready = prepare(data=str(tmp_path))
    assert (len(ready.train), len(ready.validation), len(ready.tests["dev"])) == (40, 10, 20)
    assert any("also holds more.tsv, which is not read" in note for note in ready.notes)
    parquet("train", 500)
    with pytest.raises(UserError, match="two files for 'train'"):
        prepare(data=str(tmp_path))


def test_quotes_of_a_tsv_are_text_and_a_note_says_so(tmp_path: Path, files: dict[str, str]) -> None:
    dev = tsv(tmp_path / "quoted.tsv", [(f'"{a}"', b) for a, b in rows(6, 100)])
    notes = prepare(data={**files, "dev": dev}).notes
    assert any("dev: 6 texts are in double quotes, which are kept as text (task.quotes=true" in note for note in notes)
    ready = prepare(data={**files, "dev": dev}, quotes=True)
    assert "double quotes" not in " ".join(ready.notes)


def test_numbers_as_labels_have_the_order_of_numbers() -> None:
    assert examples.Classes.of(["10", "2", "-1"]).names == ("-1", "2", "10")
    assert examples.Classes.of(["b", "10", "2"]).names == ("10", "2", "b")
    assert examples.Classes.of(["\u00b2", "10", "2"]).names == ("10", "2", "\u00b2")
    assert examples.Classes.of(["9" * 5000, "10"]).names == ("10", "9" * 5000)
    assert [examples.written(value) for value in (1, 1.0, " 1 ", None, float("nan"), True)] == [
        "1", "1", "1", "", "", "True",
    ]  # fmt: skip


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    names = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})

    def split(count: int, labels: list[int]) -> datasets.Dataset:
        columns = {"text": [f"text {n}" for n in range(count)], "label": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    found = {"train": split(20, [0, 1] * 10), "validation": split(4, [0, 1] * 2), "test": split(4, [-1] * 4)}
    monkeypatch.setattr(hub, "load", lambda place: found)
    ready = prepare(data="hub:owner/name", text="text", dev=4)
    assert ready.model["id2label"] == {0: "bad", 1: "good"}
    assert (list(ready.tests), list(ready.unlabelled)) == (["dev"], ["test"])
    del found["train"]
    with pytest.raises(UserError, match="no split 'train', it has validation, test"):
        prepare(data="hub:owner/name", text="text")
