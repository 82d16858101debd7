"""GLUE: nine tasks of sentences and pairs, and the diagnostic set."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from sj_lang.errors import UserError, choices
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data.tables import examples, glue_files, phrases
from sj_lang_language.data.tables.examples import Classes, Examples, NumpyArray, Scores
from sj_lang_language.data.tables.glue_files import PARTS, SPECS, GlueTask
from sj_lang_language.data.tables.table_files import DataTable
from sj_lang_language.tasks import metrics
from sj_lang_language.tasks.sentences import Figures, Parts, SentenceTask, check_share, default_share, head, lines

Name = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]


class Glue(SentenceTask):
    """One task of GLUE (Wang et al. 2019, arXiv 1804.07461).

    name: the task. "ax" trains on MNLI and predicts the diagnostic set, as "mnli" does too if that
        set is there.
    data: "hub" (nyu-mll/glue), hub:owner/name, a folder in GLUE's TSV layout (CoLA/train.tsv ...)
        or of parquet files (cola/train-*.parquet ...), the task's own folder, or a mapping of parts
        to files.
    files: part (train, dev, dev_mm, test, test_mm, ax) -> file, in place of the one in data.
    length: tokens of an example at most, special ones included. Longer ones lose their end, and a
        note counts them.
    validation: what is cut from train to choose the checkpoint: a share, or from 1 on a number of
        examples. None: a tenth, 2,000 at most (ours). The cut is the same for every seed. 0: none,
        the last weights are taken.
    phrases: train holds phrases of its sentences beside them, so whole sentences are cut, with what
        stands in no other; a share is one of sentences. None: for sst2.
    baselines: compare with the majority class and with a bag of words. None: if train has at most
        100,000 examples.

    dev is evaluated once. Figures (the first chooses the checkpoint): cola `matthews`,
    `accuracy`; sst2, mnli, qnli, rte, wnli `accuracy`; mrpc, qqp `f1`, `accuracy`; stsb `spearman`,
    `pearson`. Test files become submissions in predictions/, named, labelled and counted as GLUE
    asks; one that has labels is scored too.
    """

    def __init__(
        self,
        *,
        name: Name,
        data: str | dict[str, str] = "hub",
        files: dict[str, str] | None = None,
        length: int = 128,
        validation: float | None = None,
        phrases: bool | None = None,
        baselines: bool | None = None,
    ) -> None:
        for key, named in (("files", files), ("data", data if isinstance(data, dict) else None)):
            for part in named or {}:
                if part not in PARTS:
                    raise UserError(f"task.{key}: unknown part '{part}'; {choices(part, PARTS)}")
        check_share("validation", validation or 0)
        self.name, self.data, self.files = name, data, files or {}
        self.length, self.validation, self.baselines = length, validation, baselines
        self.spec = SPECS[name]
        self.phrases = name == "sst2" if phrases is None else phrases
        if self.phrases and len(self.spec.text) > 1:
            raise UserError(f"task.phrases: {name} has pairs of texts; phrases are parts of single sentences")

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. seed: not needed, as the cut is the same for every seed."""
        spec, notes = self.spec, list[str]()
        tables = glue_files.read(self.name, self.data, self.files, notes)
        kind = self._kind()
        parts = {part: examples_of(spec, table, part, kind) for part, table in tables.items()}
        train, validation = parts.pop("train"), None
        if self.phrases and self.validation != 0:
            train, validation, gone = phrases.cut(train, 0.1 if self.validation is None else self.validation)
            notes.append(
                f"validation: {len(validation):,} whole sentences are cut from train to choose the checkpoint; "
                f"{gone:,} phrases that occur in no other sentence are left out"
            )
        elif self.validation != 0:
            share = default_share(train) if self.validation is None else self.validation
            train, validation = examples.cut(train, share, classes=bool(spec.labels))
            notes.append(f"validation: {len(validation):,} examples are cut from train to choose the checkpoint")
        for part, rows in spec.rows.items():
            if part in parts and len(parts[part]) != rows:
                notes.append(
                    f"{part}: {len(parts[part]):,} examples, but GLUE has {rows:,}; {spec.file_of(part)} cannot "
                    "be submitted"
                )
        return self.assemble(
            Parts(train=train, validation=validation, held_out=parts, notes=notes),
            tokenizer,
            kind=kind,
            figures=figures(spec),
            select=spec.figures[0],
            data={"name": self.name, "data": self.data, "files": self.files},
            predictions=self._predictions,
        )

    def outline(self) -> dict[str, object]:
        """The width of the output and the length are known without the data."""
        return {**super().outline(), **head(self._kind())}

    def _kind(self) -> Classes | Scores:
        names = self.spec.labels
        if not names:
            return Scores(low=0, high=5)
        return Classes(names=names, aliases={str(number): number for number in range(len(names))})

    def _predictions(self, part: str, predicted: NumpyArray) -> dict[str, str]:
        """A submission for a test set; for dev the same under its own name."""
        spec = self.spec
        if not spec.labels:
            written = [f"{score:.3f}" for score in predicted]
        else:
            written = [spec.labels[one] if spec.named else str(one) for one in predicted]
        return {spec.file_of(part): lines(written)}


def figures(spec: GlueTask) -> dict[str, Figures]:
    """Part -> its figures; those of the diagnostic set are Matthews and accuracy."""
    formulas: dict[str, Callable[[NumpyArray, NumpyArray], float]] = {
        "accuracy": metrics.accuracy,
        "f1": metrics.f1,
        "matthews": partial(metrics.matthews, classes=len(spec.labels)),
        "pearson": metrics.pearson,
        "spearman": metrics.spearman,
    }

    def all_of(names: tuple[str, ...]) -> Figures:
        return lambda predicted, labels: {name: formulas[name](predicted, labels) for name in names}

    by_part = {part: all_of(spec.figures) for part in ("validation", *PARTS)}
    return by_part | {"ax": all_of(("matthews", "accuracy"))} if spec.labels else by_part


def examples_of(spec: GlueTask, table: DataTable, part: str, kind: Classes | Scores) -> Examples:
    """The examples of a table, by the column names of the TSV layout or of the hub."""
    in_table = table.columns.keys()
    of_hub = spec.hub_text and set(spec.hub_text) <= in_table and not set(spec.text) <= in_table
    text = spec.hub_text if of_hub else spec.text
    if part == "ax" and {"Premise", "Hypothesis"} <= table.columns.keys():
        text = ("Premise", "Hypothesis")
    column = next((name for name in (spec.label, "label", "Label") if name in table.columns), spec.label)
    labelled = part not in ("test", "test_mm", "ax") or examples.has_labels(table, column)
    return examples.of_table(table, text, column if labelled else None, kind, keys=("task.data", "task.data"))
