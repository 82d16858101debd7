"""Recall: a random string, then the same string again. Only what looks back can solve it."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared, Task
from sj_lang_language.data.text.windows import IGNORED, stack
from sj_lang_language.tasks import texts
from sj_lang_language.tasks.causal_lm import reduce

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
BEGINNING = 2  # symbols of the repeat that the sample's prompt gives away


class Recall(Task):
    """Predict the repeat of a random string. No data are needed: the strings are drawn by the seed.

    symbols: letters to draw from; chance is 1 / symbols.
    period: the shortest and the longest string, drawn anew for each text. A text has twice as many
        symbols as the longest string: shorter ones begin a third time.
    texts: how many there are to train on, all different; a tenth of them is the validation.
    tested: texts of each test: `test`, of these periods, and `longer`, of twice as long ones.

    What follows each symbol of a repeat is scored: `accuracy`, the share of right symbols, and
    `loss`, in nats. A symbol stands several times in a string, so one symbol alone does not say
    what follows it: with 20 symbols and strings of 15 to 20, looking up the last one gives about
    .7, and more takes two.
    """

    auto_class: str = "AutoModelForCausalLM"
    causal: bool = True
    pads: bool = False

    def __init__(
        self, *, symbols: int = 20, period: tuple[int, int] = (15, 20), texts: int = 16_000, tested: int = 512
    ) -> None:
        shortest, longest = period
        if not 2 <= symbols <= len(LETTERS):
            raise UserError(f"task.symbols is {symbols}, expected 2 to {len(LETTERS)}")
        if not 2 <= shortest <= longest:
            raise UserError(f"task.period is {list(period)}, expected the shortest string, 2 or more, and the longest")
        if texts < 10 or tested < 1:
            raise UserError(f"task: texts {texts} must be 10 or more, tested {tested} 1 or more")
        self.symbols, self.period, self.texts, self.tested = symbols, (shortest, longest), texts, tested

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        letters = LETTERS[: self.symbols]
        made = tokenizer(texts=[letters])
        ids = texts.encode(made, letters)
        if len(ids) != len(letters):
            raise UserError(f"recall needs a token for each letter, as `characters` has; this tokenizer has {len(ids)}")
        shortest, longest = self.period
        twice = (2 * shortest, 2 * longest)
        parts = {
            "train": Repeats(ids, self.period, self.texts, f"{seed} train"),
            "validation": Repeats(ids, self.period, self.texts // 10, f"{seed} validation"),
            "test": Repeats(ids, self.period, self.tested, f"{seed} test"),
            "longer": Repeats(ids, twice, self.tested, f"{seed} longer"),
        }
        return Prepared(
            tokenizer=made,
            train=parts["train"],
            validation=parts["validation"],
            tests={name: parts[name] for name in ("test", "longer")},
            reduce=reduce,
            metrics=metrics,
            collate=stack,
            label_names=["shift_labels"],
            loss="mean negative log likelihood of a symbol of the repeat, in nats",
            model=texts.model_fields(made, 4 * longest)
            | {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id},
            fingerprint={name: part.fingerprint() for name, part in parts.items()},
            baselines=lambda: {"chance": {"test.accuracy": 1 / self.symbols}},
        )

    def outline(self) -> Mapping[str, Any]:
        return {"max_position_embeddings": 4 * self.period[1]}

    def sample_prompt(self, prepared: Prepared) -> str | None:
        """A string and the beginning of its repeat."""
        string = prepared.tests["test"].string(0)  # type: ignore[attr-defined]
        assert prepared.tokenizer is not None  # this task tokenizes
        return str(prepared.tokenizer.decode(torch.cat([string, string[:BEGINNING]])))


class Repeats:
    """Texts of a random string and its repeat, each drawn when it is asked for."""

    def __init__(self, symbols: Tensor, period: tuple[int, int], count: int, seed: str) -> None:
        self.symbols, self.period, self.count, self.seed = symbols.long(), period, count, seed

    def __len__(self) -> int:
        return self.count

    def string(self, index: int) -> Tensor:
        """The string that text `index` repeats."""
        if not 0 <= index < self.count:
            raise IndexError(f"text {index} of {self.count}")
        draw = random.Random(f"{self.seed} {index}")
        length = draw.randint(*self.period)
        return self.symbols[torch.tensor(draw.choices(range(len(self.symbols)), k=length))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """An item as in `windows`; labels begin where the first symbol of the repeat is read."""
        string = self.string(index)
        length = 2 * self.period[1] + 1
        text = string.repeat(-(-length // len(string)))[:length]
        labels = text.clone()
        labels[: len(string) + 1] = IGNORED
        return {"input_ids": text[:-1], "labels": labels[:-1], "shift_labels": labels[1:]}

    def fingerprint(self) -> dict[str, Any]:
        first = b"".join(self.string(index).numpy().tobytes() for index in range(min(100, self.count)))
        return {"texts": self.count, "period": list(self.period), "sha256": hashlib.sha256(first).hexdigest()}


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split from what `reduce` gave."""
    loss, scored, hits = (np.asarray(part, dtype=np.float64).sum() for part in reduced)
    return {"loss": float(loss / scored), "accuracy": float(hits / scored)}
