"""The task: data to batches to figures. This one learns to copy a random text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from sj_lang.errors import UserError
from sj_lang.task import Prepared, Task

LETTERS = "abcdefgh"


class Copies(Dataset[dict[str, Tensor]]):
    """Texts "abc|abc": the second half can be known from the first."""

    def __init__(self, texts: list[str], tokenizer: Any) -> None:
        self.ids = torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        half = self.ids.shape[1] // 2
        first_half = torch.arange(self.ids.shape[1]) <= half
        return {"input_ids": self.ids[index], "labels": self.ids[index].masked_fill(first_half, -100)}


class Ember(Task):
    """Copy `length` random letters. size: texts to train on; a tenth of it for each other split."""

    auto_class = "AutoModelForCausalLM"
    causal = True
    pads = False

    def __init__(self, *, length: int = 8, size: int = 1000) -> None:
        if length < 1 or size < 10:
            raise UserError(f"task: length {length} must be 1 or more, and size {size} 10 or more")
        self.length, self.size = length, size

    def prepare(self, tokenizer: Any, *, seed: int) -> Prepared:
        draw = torch.Generator().manual_seed(0)  # the same data for every seed
        rows = torch.randint(len(LETTERS), (self.size * 12 // 10, self.length), generator=draw).tolist()
        halves = ["".join(LETTERS[letter] for letter in row) for row in rows]
        texts = [f"{half}|{half}" for half in halves]
        made = tokenizer(texts=[LETTERS + "|"])
        tenth = self.size // 10
        return Prepared(
            tokenizer=made,
            train=Copies(texts[: self.size], made),
            validation=Copies(texts[self.size : self.size + tenth], made),
            tests={"test": Copies(texts[self.size + tenth :], made)},
            reduce=reduce,
            metrics=metrics,
            model={
                "vocab_size": len(made),
                "max_position_embeddings": 2 * self.length + 1,
                "pad_token_id": made.pad_token_id,
            },
            fingerprint={"length": self.length, "size": self.size},
        )


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each text: its summed loss, how many letters were right, and how many count."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    losses = cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none")
    counted = labels != -100
    right = (logits.argmax(-1) == labels) & counted
    return losses.sum(1), right.sum(1), counted.sum(1)


def metrics(split: str, reduced: Any, labels: Any) -> Mapping[str, float]:
    loss, right, counted = (float(part.sum()) for part in reduced)
    return {"loss": loss / counted, "accuracy": right / counted}
