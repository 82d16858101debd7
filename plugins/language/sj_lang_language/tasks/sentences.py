"""What tasks on sentences and pairs share: encoding, batches, figures, baselines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data.tables import examples
from sj_lang_language.data.tables.examples import Classes, Examples, NumpyArray, Scores
from sj_lang_language.tasks import bag_of_words
from sj_lang_language.tasks.texts import TextTask, model_fields

#: (predictions: class numbers or scores, labels) -> figures
Figures = Callable[[NumpyArray, NumpyArray], dict[str, float]]

MOST = 2000  # most validation examples that are cut by default
WORST = 10  # wrong answers that are shown
CHEAP = 100_000  # most training examples for which a bag of words is fitted by default


@dataclass(kw_only=True)
class Parts:
    """Examples by part. held_out: name -> part that is looked at once, scored if it has labels."""

    train: Examples
    validation: Examples | None
    held_out: dict[str, Examples]
    notes: list[str] = field(default_factory=list)


class Encoded:
    """Tokenized examples: dicts of lists, as long as the texts; batches are padded later."""

    def __init__(self, encoding: Mapping[str, list[Any]], labels: NumpyArray | None) -> None:
        self.columns = dict(encoding)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        item = {name: column[index] for name, column in self.columns.items()}
        return item if self.labels is None else item | {"labels": self.labels[index].item()}


class SentenceTask(TextTask):
    """Base: a subclass reads `Parts`, and says what the labels and the figures are."""

    auto_class = "AutoModelForSequenceClassification"
    causal = False
    pads = True
    #: None: if train has up to `CHEAP` examples
    baselines: bool | None

    def assemble(
        self,
        parts: Parts,
        tokenizer: MakeTokenizer,
        *,
        kind: Classes | Scores,
        figures: Mapping[str, Figures],
        select: str,
        data: Any,
        predictions: Callable[[str, NumpyArray], Mapping[str, str]],
    ) -> Prepared:
        """Tokenize, and hand everything over.

        figures: of each labelled part and "validation". predictions: (part, decisions) -> files.
        """
        made = tokenizer(texts=parts.train.texts())
        made.padding_side = "right"
        if made.pad_token is None:
            raise UserError("tokenizer: it has no padding token, and sentences of a batch differ in length")
        whole = {"train": parts.train, "validation": parts.validation, **parts.held_out}
        present = {name: part for name, part in whole.items() if part is not None}
        notes = [*parts.notes]
        encoded = {name: encode(part, made, self.length, name, notes) for name, part in present.items()}
        tests = {name: part for name, part in parts.held_out.items() if part.labels is not None}
        blind = [name for name in parts.held_out if name not in tests]
        notes += [f"{name}: no labels, so it is predicted and not scored" for name in blind]
        seen = {name: _seen(name, part, parts, notes) for name, part in tests.items()}
        metrics = SentenceMetrics(kind, figures, seen)
        with_baselines = len(parts.train) <= CHEAP if self.baselines is None else self.baselines
        if self.baselines is None and not with_baselines:
            notes.append(f"no baselines, as train has over {CHEAP:,} examples (task.baselines=true computes them)")
        return Prepared(
            tokenizer=made,
            train=encoded["train"],
            validation=encoded.get("validation"),
            tests={name: encoded[name] for name in tests},
            unlabelled={name: encoded[name] for name in blind},
            reduce=reduce,
            metrics=metrics,
            collate=DataCollatorWithPadding(made),
            label_names=["labels"],
            model=model_fields(made, self.length)
            | ({"type_vocab_size": 2} if "token_type_ids" in made.model_input_names else {})
            | head(kind),
            select=select,
            greater_is_better=select != "loss",
            loss=(
                "mean cross entropy of an example, in nats"
                if isinstance(kind, Classes)
                else "mean squared error of an example's score"
            ),
            fingerprint={"data": data, **{name: part.fingerprint() for name, part in present.items()}},
            notes=notes,
            predictions=lambda split, reduced, labels: predictions(split, metrics.decided(reduced)),
            errors=lambda split, reduced, labels: metrics.worst(tests[split], reduced),
            baselines=(lambda: baseline_figures(parts, tests, metrics, select)) if with_baselines else None,
            remarks=metrics.remarks,
        )


def _seen(name: str, part: Examples, parts: Parts, notes: list[str]) -> NumpyArray:
    """The examples that also occur in train or validation, as a mask."""
    seen = examples.repeated(part, parts.train)
    if parts.validation is not None:
        seen |= examples.repeated(part, parts.validation)
    if seen.any():
        hint = "" if seen.all() else f"; {name}.unseen.* are the figures without them"
        notes.append(f"{name}: {int(seen.sum()):,} of {len(part):,} examples also occur in train{hint}")
    return seen


def encode(part: Examples, tokenizer: PreTrainedTokenizerBase, length: int, name: str, notes: list[str]) -> Encoded:
    """Tokenize up to `length` tokens, special ones included; note how many are cut or empty.

    If a pair is too long, tokens are removed from the end of the longer text.
    """
    if length < 8:
        raise UserError(f"task.length is {length}; expected at least 8 tokens, including the special ones")
    second = [part.second] if part.second is not None else []
    batch = tokenizer(part.first, *second, truncation=True, max_length=length, padding=False, verbose=False)
    cut = sum(1 for one in batch.encodings if one.overflowing)
    if cut:
        notes.append(f"{name}: {cut:,} of {len(part):,} texts are longer than {length} tokens and lose their end")
    empty = part.empty()
    if empty:
        notes.append(f"{name}: {len(empty):,} texts are empty, the first is {part.places[empty[0]]}")
    blank = next((row for row, ids in enumerate(batch["input_ids"]) if not ids), None)
    if blank is not None:
        raise UserError(f"task: {part.places[blank]}: an empty text, for which this tokenizer produces no token")
    return Encoded(batch.data, part.labels)


def reduce(logits: Tensor, labels: Tensor | None) -> Tensor:
    """The logits `[B, classes]` themselves, or the score `[B, 1]`, at least float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class SentenceMetrics:
    """Figures of a split from the outputs; `unseen.*` without the examples that are in train too.

    `loss`: mean cross entropy in nats, or mean squared error. A remark says if a correlation is 0
    because all predictions are the same.
    """

    def __init__(self, kind: Classes | Scores, figures: Mapping[str, Figures], seen: Mapping[str, NumpyArray]) -> None:
        self.kind, self.figures, self.seen = kind, figures, seen
        self.remarks: list[str] = []

    def __call__(self, split: str, reduced: Any, labels: Any) -> dict[str, float]:
        outputs, labels = np.asarray(reduced, dtype=np.float64), np.asarray(labels)
        predicted = self.decided(outputs)
        values = self.of(split, predicted, labels)
        constant = np.ptp(predicted.astype(np.float64)) <= 1e-7
        if split in self.seen and constant and {"matthews", "pearson"} & values.keys():
            self.remarks.append(f"{split}: all predictions are the same, so the correlation is set to 0")
        return {"loss": self._loss(outputs, labels)} | values

    def decided(self, outputs: Any) -> NumpyArray:
        """Outputs `[N, classes]` to class numbers, or `[N, 1]` to scores within their limits."""
        values: NumpyArray = np.asarray(outputs)
        if isinstance(self.kind, Scores):
            return values.reshape(-1).clip(self.kind.low, self.kind.high)
        classes: NumpyArray = values.argmax(-1)
        return classes

    def of(self, split: str, predicted: NumpyArray, labels: NumpyArray) -> dict[str, float]:
        """The figures of predictions, and `unseen.*` if some but not all are in train."""
        figures = self.figures.get(split, self.figures["validation"])
        values, seen = figures(predicted, labels), self.seen.get(split)
        if seen is None or not seen.any() or seen.all():
            return values
        unseen = figures(predicted[~seen], labels[~seen])
        return values | {f"unseen.{name}": value for name, value in unseen.items()}

    def worst(self, part: Examples, reduced: Any) -> list[str]:
        """The examples with a wrong answer and the highest loss: label, answer, and the texts."""
        outputs, labels = np.asarray(reduced, dtype=np.float64), part.labels
        assert labels is not None
        answers, losses = self.decided(outputs), self._losses(outputs, labels)
        ordered = [index for index in np.argsort(-losses, kind="stable") if answers[index] != labels[index]]
        lines = []
        for index in ordered[:WORST]:
            pair = (labels[index], answers[index])
            label, answer = (
                (f"{one:.2f}" for one in pair)
                if isinstance(self.kind, Scores)
                else (self.kind.names[one] for one in pair)
            )
            texts = [part.first[index], *([part.second[index]] if part.second is not None else [])]
            lines.append(f"{label}, not {answer}: {' | '.join(' '.join(text.split()) for text in texts)}")
        return lines

    def _loss(self, outputs: NumpyArray, labels: NumpyArray) -> float:
        return float(np.mean(self._losses(outputs, labels)))

    def _losses(self, outputs: NumpyArray, labels: NumpyArray) -> NumpyArray:
        if isinstance(self.kind, Scores):
            squares: NumpyArray = (outputs.reshape(-1) - labels) ** 2
            return squares
        shifted = outputs - outputs.max(-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        losses: NumpyArray = -logs[np.arange(len(labels)), labels]
        return losses


def baseline_figures(
    parts: Parts, tests: Mapping[str, Examples], metrics: SentenceMetrics, select: str
) -> dict[str, dict[str, float]]:
    """Without a network: the most frequent class or mean score of train, and a bag of words."""
    labels, kind, held = parts.train.labels, metrics.kind, parts.validation
    assert labels is not None
    constant = np.bincount(labels).argmax() if isinstance(kind, Classes) else labels.mean()

    def quality(outputs: NumpyArray, labels: NumpyArray) -> float:
        values = metrics.figures["validation"](metrics.decided(outputs), labels)
        return values[select] if select in values else next(iter(values.values()))

    outputs = bag_of_words.fitted(
        train=((parts.train.first, parts.train.second), labels),
        validation=((held.first, held.second), held.labels) if held is not None and held.labels is not None else None,
        classes=len(kind.names) if isinstance(kind, Classes) else None,
        quality=quality,
    )
    baselines: dict[str, dict[str, float]] = {"majority": {}, "bag_of_words": {}}
    for split, part in tests.items():
        assert part.labels is not None
        words = metrics.decided(outputs((part.first, part.second)))
        for method, predicted in (("majority", np.full(len(part), constant)), ("bag_of_words", words)):
            values = metrics.of(split, predicted, part.labels)
            baselines[method] |= {f"{split}.{figure}": value for figure, value in values.items()}
    return baselines


def check_share(name: str, share: float) -> None:
    """Raise UserError unless this is a share, or a number of examples."""
    if share < 0 or (share > 1 and share != int(share)):
        raise UserError(f"task.{name}: {share:g}; expected a share below 1, or a whole number of examples")


def default_share(train: Examples) -> float:
    """How much is cut from train for validation: a tenth, or `MOST` examples if that is fewer."""
    return MOST if len(train) > 10 * MOST else 0.1


def lines(values: Iterator[str] | list[str]) -> str:
    """Index and prediction of each example, as GLUE asks."""
    rows = [f"{index}\t{value}\n" for index, value in enumerate(values)]
    return "index\tprediction\n" + "".join(rows)


def head(kind: Classes | Scores) -> dict[str, Any]:
    """The fields of the model's config that the labels decide."""
    if isinstance(kind, Scores):
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(kind.names),
        "id2label": dict(enumerate(kind.names)),
        "label2id": {name: index for index, name in enumerate(kind.names)},
        "problem_type": "single_label_classification",
    }
