"""What tasks on sentences and pairs share: encoding, batches, figures, baselines. text_classification, glue."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared, Task
from sj_lang_language.data.tables import examples
from sj_lang_language.data.tables.examples import Classes, Examples, Scores
from sj_lang_language.tasks import bag_of_words

Array = NDArray[Any]
#: (predictions: class numbers or scores, labels) -> figures
Figures = Callable[[Array, Array], dict[str, float]]

MOST = 2000  # validation examples that are cut off unasked
CHEAP = 100_000  # training examples up to which a bag of words is fitted unasked


@dataclass(kw_only=True)
class Parts:
    """Examples by part. held_out: name -> part that is looked at once; without labels it is only predicted."""

    train: Examples
    validation: Examples | None
    held_out: dict[str, Examples]
    notes: list[str] = field(default_factory=list)


class Encoded:
    """Tokenized examples: dicts of lists, as long as the texts; batches are padded when they are made."""

    def __init__(self, encoding: Mapping[str, list[Any]], labels: Array | None) -> None:
        self.columns = dict(encoding)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        item = {name: column[index] for name, column in self.columns.items()}
        return item if self.labels is None else item | {"labels": self.labels[index].item()}


class SentenceTask(Task):
    """Base: a subclass reads `Parts`, and says what the labels and the figures are."""

    auto_class = "AutoModelForSequenceClassification"
    causal = False
    pads = True

    def assemble(
        self,
        parts: Parts,
        tokenizer: MakeTokenizer,
        *,
        length: int,
        kind: Classes | Scores,
        figures: Mapping[str, Figures],
        select: str,
        baselines: bool | None,
        data: Any,
        predictions: Callable[[str, Array], Mapping[str, str]],
    ) -> Prepared:
        """Tokenize, and hand everything over. figures: of each labelled part, "validation" among them.

        predictions: (part, class numbers or scores) -> files. baselines: None: if train has up to
        `CHEAP` examples.
        """
        made = tokenizer(texts=parts.train.texts())
        made.padding_side = "right"
        if made.pad_token is None:
            raise UserError("tokenizer: it has no padding token, and sentences of a batch differ in length")
        whole = {"train": parts.train, "validation": parts.validation, **parts.held_out}
        present = {name: part for name, part in whole.items() if part is not None}
        notes = [*parts.notes]
        encoded = {name: encode(part, made, length, name, notes) for name, part in present.items()}
        tests = {name: part for name, part in parts.held_out.items() if part.labels is not None}
        notes += [
            f"{name}: no labels, so it is predicted and not scored" for name in parts.held_out if name not in tests
        ]
        seen = {name: self._seen(name, part, parts, notes) for name, part in tests.items()}
        remarks: list[str] = []
        metrics = SentenceMetrics(kind=kind, figures=figures, seen=seen, remarks=remarks)
        with_baselines = baselines if baselines is not None else len(parts.train) <= CHEAP
        if baselines is None and not with_baselines:
            notes.append(f"no baselines, as train has over {CHEAP:,} examples (task.baselines=true computes them)")
        return Prepared(
            tokenizer=made,
            train=encoded["train"],
            validation=encoded.get("validation"),
            tests={name: encoded[name] for name in tests},
            unlabelled={name: encoded[name] for name in parts.held_out if name not in tests},
            reduce=reduce,
            metrics=metrics,
            collate=DataCollatorWithPadding(made),
            label_names=["labels"],
            model=_model(made, kind, length),
            select=select,
            greater_is_better=select != "loss",
            loss=(
                "mean cross entropy of an example, in nats"
                if isinstance(kind, Classes)
                else "mean squared error of an example's score"
            ),
            fingerprint={"data": data, **{name: part.fingerprint() for name, part in present.items()}},
            notes=notes,
            predictions=lambda split, reduced, labels: predictions(split, decided(kind, reduced)),
            baselines=(lambda: baseline_figures(parts, tests, kind, figures, select, seen)) if with_baselines else None,
            remarks=remarks,
        )

    def _seen(self, name: str, part: Examples, parts: Parts, notes: list[str]) -> Array:
        seen = examples.repeated(part, parts.train)
        if parts.validation is not None:
            seen |= examples.repeated(part, parts.validation)
        if seen.any():
            hint = "" if seen.all() else f"; {name}.unseen.* are the figures without them"
            notes.append(f"{name}: {int(seen.sum()):,} of {len(part):,} examples also stand in train{hint}")
        return seen


def encode(part: Examples, tokenizer: PreTrainedTokenizerBase, length: int, name: str, notes: list[str]) -> Encoded:
    """Tokenize up to `length` tokens, special ones included; say how many were cut, and how many are empty.

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


def decided(kind: Classes | Scores, outputs: Any) -> Array:
    """Outputs `[N, classes]` to class numbers, or `[N, 1]` to scores, clipped to their limits."""
    values: Array = np.asarray(outputs)
    decisions: Array = values.argmax(-1) if isinstance(kind, Classes) else values.reshape(-1).clip(kind.low, kind.high)
    return decisions


class SentenceMetrics:
    """Figures of a split from the outputs; `unseen.*` on the examples that are not in train, if some are.

    `loss`: mean cross entropy in nats, or mean squared error. A remark tells if a correlation is 0
    because all predictions are the same.
    """

    def __init__(
        self,
        *,
        kind: Classes | Scores,
        figures: Mapping[str, Figures],
        seen: Mapping[str, Array],
        remarks: list[str],
    ) -> None:
        self.kind, self.figures, self.seen, self.remarks = kind, figures, seen, remarks

    def __call__(self, split: str, reduced: Any, labels: Any) -> dict[str, float]:
        outputs, labels = np.asarray(reduced, dtype=np.float64), np.asarray(labels)
        predicted = decided(self.kind, outputs)
        values = {"loss": self._loss(outputs, labels)} | self.figures.get(split, self.figures["validation"])(
            predicted, labels
        )
        if split in self.seen and self._constant(predicted) and {"matthews", "pearson"} & values.keys():
            self.remarks.append(f"{split}: all predictions are the same, so the correlation is set to 0")
        return values | unseen(self.figures, self.seen, split, predicted, labels)

    def _loss(self, outputs: Array, labels: Array) -> float:
        if isinstance(self.kind, Scores):
            return float(np.mean((outputs.reshape(-1) - labels) ** 2))
        shifted = outputs - outputs.max(-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return -float(np.mean(logs[np.arange(len(labels)), labels]))

    @staticmethod
    def _constant(predicted: Array) -> bool:
        return bool(np.ptp(predicted.astype(np.float64)) <= 1e-7)


def unseen(
    figures: Mapping[str, Figures], seen: Mapping[str, Array], split: str, predicted: Array, labels: Array
) -> dict[str, float]:
    """`unseen.*`, the figures on the examples that are not in train; nothing if all of them are, or none."""
    at = seen.get(split)
    if at is None or not at.any() or at.all():
        return {}
    return {f"unseen.{name}": value for name, value in figures[split](predicted[~at], labels[~at]).items()}


def baseline_figures(
    parts: Parts,
    tests: Mapping[str, Examples],
    kind: Classes | Scores,
    figures: Mapping[str, Figures],
    select: str,
    seen: Mapping[str, Array],
) -> dict[str, dict[str, float]]:
    """What needs no network: the most frequent class (of scores the mean) of train, and a bag of words."""
    labels = parts.train.labels
    assert labels is not None
    constant = np.bincount(labels).argmax() if isinstance(kind, Classes) else labels.mean()

    def texts(part: Examples) -> bag_of_words.Texts:
        return part.first, part.second

    def quality(outputs: Array, labels: Array) -> float:
        values = figures["validation"](decided(kind, outputs), labels)
        return values[select] if select in values else next(iter(values.values()))

    held = parts.validation
    outputs = bag_of_words.fitted(
        train=(texts(parts.train), labels),
        validation=(texts(held), held.labels) if held is not None and held.labels is not None else None,
        classes=len(kind.names) if isinstance(kind, Classes) else None,
        quality=quality,
    )
    baselines: dict[str, dict[str, float]] = {"majority": {}, "bag_of_words": {}}
    for split, part in tests.items():
        for method, made in (
            ("majority", np.full(len(part), constant)),
            ("bag_of_words", decided(kind, outputs(texts(part)))),
        ):
            assert part.labels is not None
            values = figures[split](made, part.labels) | unseen(figures, seen, split, made, part.labels)
            baselines[method] |= {f"{split}.{figure}": value for figure, value in values.items()}
    return baselines


def default_share(train: Examples) -> float:
    """A tenth of train for validation, and no more than `MOST` examples, which is a number and not a share."""
    return MOST if len(train) > 10 * MOST else 0.1


def lines(values: Iterator[str] | list[str]) -> str:
    """index and prediction of each example, as GLUE wants them."""
    rows = [f"{index}\t{value}\n" for index, value in enumerate(values)]
    return "index\tprediction\n" + "".join(rows)


def _model(tokenizer: PreTrainedTokenizerBase, kind: Classes | Scores, length: int) -> dict[str, Any]:
    """What the data decide in the model's config."""
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if "token_type_ids" in tokenizer.model_input_names:
        fields["type_vocab_size"] = 2
    return fields | head(kind)


def head(kind: Classes | Scores) -> dict[str, Any]:
    """What the labels decide in the model's config."""
    if isinstance(kind, Scores):
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(kind.names),
        "id2label": dict(enumerate(kind.names)),
        "label2id": {name: index for index, name in enumerate(kind.names)},
        "problem_type": "single_label_classification",
    }
