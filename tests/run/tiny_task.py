"""The task of the tiny model, letters that mostly follow the alphabet, and its tokenizer."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from sj_lang.errors import UserError
from sj_lang.hf import shield
from sj_lang.task import Prepared, Task

shield()

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

LETTERS = "abcdefghij"
HELD_OUT = 11  # windows of the validation and of the test split


class Windows:
    def __init__(self, rows: list[list[int]], ragged: bool) -> None:
        self.rows, self.ragged = rows, ragged

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.rows[index]
        valid = len(ids) - (index * 5) % 9 if self.ragged else len(ids)
        mask = [1] * valid + [0] * (len(ids) - valid)
        labels = [token if keep else -100 for token, keep in zip(ids, mask, strict=True)]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Stream(IterableDataset[dict[str, Any]]):
    """Windows without end."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from (self.windows[index] for index in range(len(self.windows)))


class TinyText(Task):
    """Letters that mostly follow one another in the alphabet, in windows of 12."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    causal: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def __init__(
        self,
        *,
        windows: int = 48,
        validation: bool = True,
        ragged: bool = True,
        prompt: bool = True,
        stream: bool = False,
    ) -> None:
        self.windows, self.validation, self.ragged, self.prompt = windows, validation, ragged, prompt
        self.stream = stream

    def prepare(self, tokenizer: Any, *, seed: int) -> Prepared:
        if self.windows < 1:
            raise UserError(f"task.windows is {self.windows}, it must be at least 1")
        source = random.Random(7)
        text, letter = [], 0
        for _ in range(12 * (self.windows + 2 * HELD_OUT)):
            letter = (letter + 1) % 10 if source.random() < 0.9 else source.randrange(10)
            text.append(letter)
        rows = [text[12 * i : 12 * i + 12] for i in range(self.windows + 2 * HELD_OUT)]
        words = tokenizer(texts=[LETTERS])
        train = Windows(rows[: self.windows], self.ragged)
        return Prepared(
            tokenizer=words,
            train=Stream(train) if self.stream else train,
            validation=Windows(rows[self.windows : self.windows + HELD_OUT], self.ragged) if self.validation else None,
            tests={"test": Windows(rows[self.windows + HELD_OUT :], self.ragged)},
            reduce=reduce,
            metrics=metrics,
            model={"vocab_size": 10, "max_position_embeddings": 12},
            fingerprint={"letters": len(text)},
            notes=["letters, not words"],
        )

    def sample_prompt(self, prepared: Prepared) -> str | None:
        return "abc" if self.prompt else None


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    targets = labels[:, 1:]
    losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, reduction="none")
    return losses.double().sum(1), (targets != -100).sum(1)


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    loss = float(np.sum(reduced[0]) / np.sum(reduced[1]))
    return {"loss": loss, "bits_per_char": loss / math.log(2)}


def letters(*, texts: Any) -> PreTrainedTokenizerFast:
    vocabulary = {letter: index for index, letter in enumerate("".join(texts))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
