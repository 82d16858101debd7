"""Classify sentences or pairs of any table: CSV, TSV, JSON lines, parquet, or the hub's."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sj_lang.component.schema import Data
from sj_lang.component.spec import SPLITS
from sj_lang.errors import UserError
from sj_lang.hf import HUB
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data import hub
from sj_lang_language.data.tables import examples, table_files
from sj_lang_language.data.tables.examples import Classes, Examples, NumpyArray
from sj_lang_language.data.tables.table_files import DataTable, listed
from sj_lang_language.tasks import metrics
from sj_lang_language.tasks.sentences import Parts, SentenceTask, check_share, default_share, lines

_STEMS = {"valid": "validation", "val": "validation", **{name: name for name in SPLITS}}
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.parquet$)")  # as the hub names the files of a part


class TextClassification(SentenceTask):
    """Train a classifier of sentences or pairs; the labels are those found in train.

    data: a mapping of `train`, `validation`, `dev`, `test` to files; one file, which is train; a
        folder that holds files of these names; or hub:owner/name[/config]. A recipe may leave it to
        the command line.
    text: the column of the sentence, or a list of two columns, of a pair. label: the column of the
        label.
    length: tokens of a text at most, special ones included. Longer ones lose their end, and a note
        counts them.
    validation, dev: what is cut from train if the data lack it: a share, or from 1 on a
        number of examples; 0 cuts none. validation None: a tenth, 2,000 at most (ours). Validation
        chooses the checkpoint; dev and test are evaluated once. dev is cut only if the data have
        neither dev nor a labelled test. The cut is at random, the same for every seed, with the
        labels in proportion; equal texts never fall on both sides.
    columns: the names of the columns, for files without a header line.
    quotes: whether fields may stand in double quotes. None: in .csv they may, in .tsv a quote is
        text.
    baselines: compare with the majority class and with a bag of words. None: if train has at most
        100,000 examples.

    Figures: `loss` in nats, `accuracy`, `f1` (of the last label in order, if there are two),
    `f1_macro`, `matthews`; `unseen.*` without the examples that also occur in train, if there are
    any. A test file without labels is predicted into predictions/test.tsv and not scored.
    """

    def __init__(
        self,
        *,
        data: Data | None = None,
        text: str | list[str] = "sentence",
        label: str = "label",
        length: int = 128,
        validation: float | None = None,
        dev: float = 0.1,
        columns: list[str] | None = None,
        quotes: bool | None = None,
        baselines: bool | None = None,
    ) -> None:
        if isinstance(text, list) and len(text) not in (1, 2):
            raise UserError(f"task.text: {text}; expected one column, or two for a pair")
        check_share("validation", validation or 0)
        check_share("dev", dev)
        self.data: Any = data
        self.text, self.label, self.length = [text] if isinstance(text, str) else text, label, length
        self.validation, self.dev = validation, dev
        self.columns, self.quotes, self.baselines = columns, quotes, baselines

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. seed: not needed, as cuts are the same for every seed."""
        if self.data is None:
            raise UserError(
                "task.data is not set: name the files, e.g. task.data.train=train.tsv task.data.dev=dev.tsv "
                "task.text=sentence task.label=label"
            )
        notes: list[str] = []
        by_part = read(self.data, notes, columns=self.columns, quotes=self.quotes)
        kind = self._labels(by_part["train"])
        parts = {name: self._examples(name, table, kind, notes) for name, table in by_part.items()}
        notes.insert(0, f"{len(kind.names)} labels: {listed(kind.names)}")
        if len(kind.names) > max(10, len(by_part["train"]) // 10):
            rows = len(by_part["train"]) / len(kind.names)
            notes.insert(1, f"that is one for every {rows:.1f} rows: are they classes?")

        def figures(predicted: NumpyArray, labels: NumpyArray) -> dict[str, float]:
            values = {"accuracy": metrics.accuracy(predicted, labels)}
            if len(kind.names) == 2:
                values["f1"] = metrics.f1(predicted, labels)
            values["f1_macro"] = metrics.f1_macro(predicted, labels)
            return values | {"matthews": metrics.matthews(predicted, labels, len(kind.names))}

        return self.assemble(
            self._parts(parts, notes),
            tokenizer,
            kind=kind,
            figures=dict.fromkeys(SPLITS, figures),
            select="accuracy",
            data=self.data,
            predictions=lambda split, predicted: {f"{split}.tsv": lines([kind.names[one] for one in predicted])},
        )

    def _labels(self, table: DataTable) -> Classes:
        column = table.column(self.label, "task.label")
        nested = next((row for row, value in enumerate(column) if isinstance(value, list | tuple | dict)), None)
        if nested is not None:
            type_name = type(column[nested]).__name__
            raise UserError(f"task.label: {table.where(nested)}: a {type_name}; expected a name or a number")
        values = [examples.written(value) for value in column]
        missing = next((row for row, value in enumerate(values) if not value), None)
        if missing is not None:
            raise UserError(f"task.label: {table.where(missing)}: no label")
        kind = Classes.of(values)
        if len(kind.names) < 2:
            raise UserError(f"task.label: {table.place}: all labels are '{listed(kind.names)}'; expected at least two")
        if len(kind.names) > max(2, len(values) // 2):
            raise UserError(
                f"task.label: {table.place}: the column '{self.label}' has {len(kind.names):,} different values in "
                f"{len(values):,} rows, which are not classes"
            )
        return kind

    def _examples(self, name: str, table: DataTable, kind: Classes, notes: list[str]) -> Examples:
        label: str | None = self.label
        if name == "test" and not examples.has_labels(table, self.label):
            label = None
        part = examples.of_table(table, self.text, label, kind, keys=("task.text", "task.label"))
        quoted = sum(1 for one in part.first if len(one) > 1 and one[0] == one[-1] == '"')
        if quoted * 2 > len(part) and not self.quotes:
            notes.append(
                f"{name}: {quoted:,} texts are in double quotes, which are kept as text (task.quotes=true strips them)"
            )
        return part

    def _parts(self, parts: Mapping[str, Examples], notes: list[str]) -> Parts:
        """Cut what is missing; dev first, so that it does not depend on the share of validation."""
        train, held_out = parts["train"], {name: parts[name] for name in ("dev", "test") if name in parts}
        scored = any(part.labels is not None for part in held_out.values())
        if not scored and self.dev:
            train, held_out["dev"] = examples.cut(train, self.dev, classes=True, key="task.dev")
            notes.append(f"no dev: {len(held_out['dev']):,} examples are cut from train for it")
        elif not scored:
            raise UserError("task.data: there is no dev and no labelled test, and task.dev=0 cuts none from train")
        validation = parts.get("validation")
        share = default_share(train) if self.validation is None else self.validation
        if validation is None and share:
            train, validation = examples.cut(train, share, classes=True)
            notes.append(f"no validation: {len(validation):,} examples are cut from train to choose the checkpoint")
        held_out = {name: held_out[name] for name in ("dev", "test") if name in held_out}
        return Parts(train=train, validation=validation, held_out=held_out, notes=notes)


def read(
    data: str | Mapping[str, str], notes: list[str], *, columns: Sequence[str] | None, quotes: bool | None
) -> dict[str, DataTable]:
    """The tables of `task.data` by part, `train` among them; UserError for what cannot be read.

    notes: gets the tables of a folder that are not parts.
    """

    def table(place: str | Path) -> DataTable:
        return table_files.read(place, columns=columns, quotes=quotes, option="task.quotes")

    if isinstance(data, Mapping):
        if "train" not in data:
            raise UserError(f"task.data: the mapping has no 'train', only {', '.join(data)}")
        return {name: table(data[name]) for name in SPLITS if name in data}
    if data.startswith(HUB):
        return _of_hub(data)
    place = Path(data).expanduser()
    if not place.is_dir():
        return {"train": table(place)}
    named: dict[str, list[Path]] = {}
    left: list[str] = []
    for path in sorted(place.iterdir()):
        if not path.name.lower().removesuffix(".gz").endswith(table_files.SUFFIXES):
            continue
        part = _STEMS.get(_SHARD.sub("", path.name.lower()).split(".")[0])
        if part is None:
            left.append(path.name)
            continue
        if part in named and not all(_SHARD.search(one.name) for one in (path, *named[part])):
            raise UserError(f"task.data: {place} holds two files for '{part}', {named[part][0].name} and {path.name}")
        named.setdefault(part, []).append(path)
    if left and "train" in named:
        notes.append(f"{place} also holds {listed(left)}, which is not read; the parts are {', '.join(_STEMS)}")
    if "train" not in named:
        expected = ", ".join(f"train{suffix}" for suffix in table_files.SUFFIXES)
        raise UserError(f"task.data: the folder {place} holds no training file; expected one of {expected}")
    return {
        name: table(files[0]) if len(files) == 1 else table_files.read_parquet(files, str(place / f"{name}-*.parquet"))
        for name in SPLITS
        if (files := named.get(name))
    }


def _of_hub(data: str) -> dict[str, DataTable]:
    loaded = hub.load(data)
    by_part = {_STEMS[split]: hub.table(loaded[split], f"{data}, {split}") for split in loaded if split in _STEMS}
    if "train" not in by_part:
        raise UserError(f"task.data: {data} has no split 'train', it has {', '.join(map(str, loaded))}")
    return {name: by_part[name] for name in SPLITS if name in by_part}
