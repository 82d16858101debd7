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
FILLER = "."  # what stands between a string and its repeat, if `distances` are tested
MOST_TOKENS = 1 << 18  # of all texts of a distance, so that one batch of them can be held in memory
LONGEST = 10_000_000  # fillers; a text of more would fill the memory
BEGINNING = 2  # symbols of the repeat that the sample's prompt gives away


class Recall(Task):
    """Predict the repeat of a random string. No data are needed: the strings are drawn by the seed.

    symbols: letters to draw from; chance is 1 / symbols.
    period: the shortest and the longest string, drawn anew for each text. A text has twice as many
        symbols as the longest string: shorter ones begin a third time.
    texts: how many there are to train on, different as long as there are so many strings, which a
        note says otherwise; a tenth of them is the validation.
    tested: texts of each test: `test`, of these periods, and `longer`, of twice as long ones.
    distances: for each of these numbers N the test `distance@N`: N times the same filler, which is
        no symbol, between a string of these periods and its repeat. The texts to train on then have
        0 to as many fillers as the longest string has symbols there, drawn anew for each. So many
        texts are tested as hold 262,144 tokens, at least one and at most `tested`; a note says how
        many. By default none, and no text has a filler.

    What follows each symbol of a repeat is scored: `accuracy`, the share of right symbols, and
    `loss`, in nats. A symbol stands several times in a string, so one symbol alone does not say
    what follows it: with 20 symbols and strings of 15 to 20, looking up the last one gives about
    .7, and more takes two.
    """

    auto_class: str = "AutoModelForCausalLM"
    causal: bool = True
    pads: bool = False

    def __init__(
        self,
        *,
        symbols: int = 20,
        period: tuple[int, int] = (15, 20),
        texts: int = 16_000,
        tested: int = 512,
        distances: list[int] | None = None,
    ) -> None:
        shortest, longest = period
        if not 2 <= symbols <= len(LETTERS):
            raise UserError(f"task.symbols is {symbols}, expected 2 to {len(LETTERS)}")
        if not 2 <= shortest <= longest:
            raise UserError(f"task.period is {list(period)}, expected the shortest string, 2 or more, and the longest")
        if texts < 10 or tested < 1:
            raise UserError(f"task: texts {texts} must be 10 or more, tested {tested} 1 or more")
        self.distances = sorted(distances or [])
        if any(one < 1 for one in self.distances) or len({*self.distances}) < len(self.distances):
            raise UserError(f"task.distances is {distances}, expected different numbers of fillers, 1 or more each")
        if self.distances and self.distances[-1] > LONGEST:
            raise UserError(
                f"task.distances has {self.distances[-1]:,}; no more than {LONGEST:,} fillers can be tested"
            )
        self.symbols, self.period, self.texts, self.tested = symbols, (shortest, longest), texts, tested

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        letters = LETTERS[: self.symbols] + (FILLER if self.distances else "")
        made = tokenizer(texts=[letters])
        ids = texts.encode(made, letters)
        if len(ids) != len(letters):
            raise UserError(f"recall needs a token for each letter, as `characters` has; this tokenizer has {len(ids)}")
        shortest, longest = self.period

        def drawn(name: str, count: int, times: int = 1, gap: tuple[int, int] = (0, 0)) -> Repeats:
            period = (times * shortest, times * longest)
            return Repeats(ids, self.symbols, period, count, f"{seed} {name}", gap=gap)

        trained = (0, longest) if self.distances else (0, 0)
        far = {
            f"distance@{distance}": drawn(f"distance {distance}", self._count(distance), gap=(distance, distance))
            for distance in self.distances
        }
        tests = {"test": drawn("test", self.tested), "longer": drawn("longer", self.tested, times=2), **far}
        parts = {
            "train": drawn("train", self.texts, gap=trained),
            "validation": drawn("validation", self.texts // 10, gap=trained),
            **tests,
        }
        return Prepared(
            tokenizer=made,
            train=parts["train"],
            validation=parts["validation"],
            tests=tests,
            reduce=reduce,
            metrics=metrics,
            collate=stack,
            label_names=["shift_labels"],
            loss="mean negative log likelihood of a symbol of the repeat, in nats",
            model=texts.model_fields(made, self._longest())
            | {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id},
            fingerprint={name: part.fingerprint() for name, part in parts.items()},
            baselines=lambda: {"chance": {"test.accuracy": 1 / self.symbols}},
            notes=[f"{name}: {len(part)} texts of {part.length:,} tokens" for name, part in far.items()] + self._few(),
        )

    def outline(self) -> Mapping[str, Any]:
        return {"max_position_embeddings": self._longest()}

    def _longest(self) -> int:
        """Tokens of the longest text."""
        return max(4 * self.period[1], *(2 * self.period[1] + distance for distance in self.distances), 0)

    def _few(self) -> list[str]:
        """A note if the strings cannot all be different."""
        strings = sum(self.symbols**length for length in range(self.period[0], self.period[1] + 1))
        few = f"there are {strings:,} strings, fewer than the {self.texts:,} texts: those of the test are trained too"
        return [few] if strings < self.texts else []

    def _count(self, distance: int) -> int:
        return max(1, min(self.tested, MOST_TOKENS // (2 * self.period[1] + distance)))

    def sample_prompt(self, prepared: Prepared) -> str | None:
        """A string and the beginning of its repeat."""
        string = prepared.tests["test"].string(0)  # type: ignore[attr-defined]
        assert prepared.tokenizer is not None  # this task tokenizes
        return str(prepared.tokenizer.decode(torch.cat([string, string[:BEGINNING]])))


class Repeats:
    """Texts of a random string and its repeat, each drawn when it is asked for.

    letters: their token ids, `symbols` symbols and, if `gap` is not 0, the filler. gap: the fewest
    and the most fillers between string and repeat.
    """

    def __init__(
        self,
        letters: Tensor,
        symbols: int,
        period: tuple[int, int],
        count: int,
        seed: str,
        *,
        gap: tuple[int, int] = (0, 0),
    ) -> None:
        self.symbols, self.filler = letters[:symbols].long(), letters[symbols:].long()
        self.period, self.count, self.seed, self.gap = period, count, seed, gap

    def __len__(self) -> int:
        return self.count

    @property
    def length(self) -> int:
        """Tokens of each text: enough for the longest string, the most fillers, and the string."""
        return 2 * self.period[1] + self.gap[1]

    def string(self, index: int) -> Tensor:
        """The string that text `index` repeats."""
        return self._drawn(index)[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """An item as in `windows`; labels begin where the first symbol of the repeat is read."""
        string, fillers = self._drawn(index)
        beginning = torch.cat([string, self.filler.repeat(fillers)])
        repeated = self.length + 1 - len(beginning)
        text = torch.cat([beginning, string.repeat(-(-repeated // len(string)))[:repeated]])
        labels = text.clone()
        labels[: len(beginning) + 1] = IGNORED
        return {"input_ids": text[:-1], "labels": labels[:-1], "shift_labels": labels[1:]}

    def _drawn(self, index: int) -> tuple[Tensor, int]:
        """The string of text `index`, and how many fillers follow it."""
        if not 0 <= index < self.count:
            raise IndexError(f"text {index} of {self.count}")
        draw = random.Random(f"{self.seed} {index}")
        length = draw.randint(*self.period)
        string = self.symbols[torch.tensor(draw.choices(range(len(self.symbols)), k=length))]
        return string, draw.randint(*self.gap)

    def fingerprint(self) -> dict[str, Any]:
        first = b"".join(self.string(index).numpy().tobytes() for index in range(min(100, self.count)))
        gap = {"fillers": list(self.gap)} if self.gap[1] else {}
        return {"texts": self.count, "period": list(self.period), **gap, "sha256": hashlib.sha256(first).hexdigest()}


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split from what `reduce` gave."""
    loss, scored, hits = (np.asarray(part, dtype=np.float64).sum() for part in reduced)
    return {"loss": float(loss / scored), "accuracy": float(hits / scored)}
