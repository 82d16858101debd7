"""Causal language modelling: predict the next token of any text."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data.text import corpus
from sj_lang_language.data.text.windows import IGNORED, HeldOutWindows, RepeatedWindows, TrainingWindows, stack
from sj_lang_language.tasks import texts
from sj_lang_language.tasks.firing import FiringPrice, check_price

TENTHS = 10  # a window's first and last tenth are told apart
REPEATED = 1 << 14  # tokens of the test text that are read twice, for each length
MOST_NATS = 700.0  # e^710 overflows


class CausalLM(texts.TextTask):
    """Train on windows of a text, and test on the end of it.

    data: a registered source, hub:owner/name[/config], a .txt or .txt.gz file, a folder of them, a
        list of these (each is cut by itself), or a mapping; a recipe may leave it to the command
        line (task.data=PATH).
    length: L, tokens of a window, and the longest text the model can read.
    stride: tokens between the beginnings of two training windows. None: `length`, so that an epoch
        reads each token once. 1: every beginning there is, drawn without replacement; an epoch then
        has as many windows as the text has tokens, so set train.max_steps.
    eval_lengths: the test text is read again in windows of each of these lengths, longer than those
        of the training or not. One that the test text does not fill is left out, and a note says
        so.
    repeat_lengths: windows of the test text of each of these lengths N are read twice in a row, as
        many as hold 16,384 tokens, at least one, spread evenly over the text. One that the test
        text does not fill is left out, and a note says so.
    trained: read the beginning of the training text, as many tokens as the test text has, as the
        test is read: the split `trained`, for papers that report the accuracy of training.
    firing: weight of the firing rate in the loss of training (see `FiringPrice`); 0: what the model
        fires costs nothing. firing_target: a rate between 0 and 1; then `firing` weighs each
        layer's distance to it. None: the rate itself.
    split: shares of train, validation and test, in characters; they must add up to 1. The text is
        cut in this order before anything is tokenized; no window reaches across a cut. Parts that
        the data bring are used as they are; missing ones are cut from the end of the training text.
        Without validation (share 0) nothing is evaluated during training.

    Validation and test are read in windows of `length` without overlap, the state reset in each;
    every token but the first of a part is predicted once. The figures are exact means over these
    tokens: `loss`, nats per token; `bits_per_char`, over the characters of the predicted tokens;
    `perplexity_per_word`, exp(summed nats / words of the predicted tokens), where white space
    separates words; `accuracy`, the share of tokens that got the largest logit. `eval_lengths` adds
    the split `test@N` of each length N, without the perplexity but with `bits_first_tenth` and
    `bits_last_tenth`: bits per character in that part of the windows. What the context is worth is
    their difference. `repeat_lengths` adds the split `repeat@N` with `bits_first` and `bits_again`:
    bits per character of the same tokens in the first and in the second copy, all of a window but
    its first; `loss` is of both.
    """

    auto_class: str = "AutoModelForCausalLM"
    causal: bool = True
    pads: bool = False

    def __init__(
        self,
        *,
        data: Data | list[Data] | None = None,
        length: int = 256,
        stride: int | None = None,
        eval_lengths: list[int] | None = None,
        repeat_lengths: list[int] | None = None,
        trained: bool = False,
        firing: float = 0.0,
        firing_target: float | None = None,
        split: tuple[float, ...] = (0.9, 0.05, 0.05),
    ) -> None:
        if length < 1 or (stride is not None and stride < 1):
            raise UserError(f"task: length {length} and stride {stride} must be 1 or more")
        for name, lengths, least in (("eval", eval_lengths or [], TENTHS), ("repeat", repeat_lengths or [], 2)):
            if any(one < least for one in lengths) or len({*lengths}) < len(lengths):
                raise UserError(
                    f"task.{name}_lengths is {lengths}, expected different lengths of {least} tokens or more"
                )
        texts.check_split(split)
        check_price(firing, firing_target)
        self.firing, self.firing_target = firing, firing_target
        self.data: Any = data
        self.length, self.stride, self.split, self.trained = length, stride or length, split, trained
        self.eval_lengths, self.repeat_lengths = sorted(eval_lengths or []), sorted(repeat_lengths or [])

    def outline(self) -> dict[str, object]:
        return {"max_position_embeddings": self._longest(self.eval_lengths, self.repeat_lengths)}

    def _longest(self, read_again: Sequence[int], repeated: Sequence[int]) -> int:
        """Inputs of the longest window, where these lengths are tested."""
        return max(self.length, *read_again, *(2 * length - 1 for length in repeated), 0)

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. seed: not needed, as the trainer orders the windows."""
        texts.check_given(self.data)
        parts = texts.read(self.data, self.split)
        made = tokenizer(texts=texts.pieces(parts["train"]))
        need = f"a window of task.length {self.length} tokens and one more"
        tokens = texts.encode_parts(made, parts, data=self.data, split=self.split, least=self.length + 1, need=need)
        pad = made.pad_token_id or 0
        held_out = {name: HeldOutWindows(tokens[name], self.length, pad) for name in tokens if name != "train"}
        test = tokens["test"]
        filled = [length for length in self.eval_lengths if length < len(test)]
        repeated = [length for length in self.repeat_lengths if length <= len(test)]
        read_again = {f"test@{length}": HeldOutWindows(test, length, pad) for length in filled}
        read_twice = {
            f"repeat@{length}": RepeatedWindows(test, length, max(1, min(REPEATED, len(test)) // length))
            for length in repeated
        }
        sizes = {name: per_token(made, parts[name], tokens[name]) for name in parts}
        seen = {}
        if self.trained:
            beginning = tokens["train"][: len(test)]
            seen["trained"] = HeldOutWindows(beginning, self.length, pad)
            sizes["trained"] = per_token(made, made.decode(beginning), beginning)
        return Prepared(
            tokenizer=made,
            train=TrainingWindows(tokens["train"], self.length, self.stride),
            validation=held_out.get("validation"),
            tests={"test": held_out["test"], **seen, **read_again, **read_twice},
            reduce=reduce_by_place if read_again or read_twice else reduce,
            metrics=partial(metrics, sizes),
            collate=stack,
            label_names=["shift_labels"],
            objective=partial(FiringPrice, weight=self.firing, target=self.firing_target, labels="shift_labels")
            if self.firing
            else None,
            loss="mean negative log likelihood of a token, in nats",
            model=texts.model_fields(made, self._longest(filled, repeated))
            | {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id},
            fingerprint={"data": self.data, **corpus.fingerprint(parts)},
            notes=self._notes(made, parts, tokens)
            + [f"{split}: {len(twice)} windows of the test text are read twice" for split, twice in read_twice.items()],
        )

    def sample_prompt(self, prepared: Prepared) -> str | None:
        """The beginning of the test text, an eighth of a window long."""
        tokens = prepared.tests["test"][0]["input_ids"][: max(1, self.length // 8)]
        return None if prepared.tokenizer is None else str(prepared.tokenizer.decode(tokens))

    def _notes(
        self, tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, str], tokens: Mapping[str, Tensor]
    ) -> list[str]:
        notes = texts.size_notes(tokenizer, parts, tokens)
        notes += [
            f"task.{name}_lengths: {length:,} is left out, as the test text has {len(tokens['test']):,} tokens"
            for name, lengths, needs in (("eval", self.eval_lengths, 1), ("repeat", self.repeat_lengths, 0))
            for length in lengths
            if length + needs > len(tokens["test"])
        ]
        start = parts["train"][:10_000]
        reads_all = not int((tokens["train"] == tokenizer.unk_token_id).sum()) if tokenizer.unk_token else True
        if reads_all and tokenizer.decode(texts.encode(tokenizer, start)) != start:
            notes.append("the tokenizer does not reproduce its text exactly; bits_per_char counts the characters read")
        return notes


class PerToken(NamedTuple):
    """How much text a predicted token is, on average."""

    characters: float
    words: float


def per_token(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Tensor) -> PerToken:
    """Of a text and its tokens; the first token is never predicted, and its text does not count."""
    predicted = text[len(tokenizer.decode(tokens[:1])) :]
    return PerToken(len(predicted) / (len(tokens) - 1), len(predicted.split()) / (len(tokens) - 1))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood (nats) of each label, 0 of those that are not scored, `[B, L]`."""
    return torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss (nats), scored tokens and hits of each window, `[B]` each.

    logits `[B, L, V]`; labels `[B, L]`, the token after each input ("shift_labels").
    """
    return losses(logits, labels).sum(1), (labels != IGNORED).sum(1), (logits.argmax(-1) == labels).sum(1)


def reduce_by_place(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """What `reduce` gives for each window, and loss and count of its ends: the first and the last
    tenth, the first and the last half, without the middle one of an odd number of tokens."""
    loss, scored = losses(logits, labels), labels != IGNORED
    sizes = (max(1, labels.shape[1] // share) for share in (TENTHS, 2))
    ends = [part for size in sizes for part in (slice(size), slice(-size, None))]
    places = (summed for part in ends for summed in (loss[:, part].sum(1), scored[:, part].sum(1)))
    return loss.sum(1), scored.sum(1), (logits.argmax(-1) == labels).sum(1), *places


def metrics(sizes: Mapping[str, PerToken], split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split from what was reduced. sizes: of a predicted token, by split."""
    loss, tokens, hits, *ends = (np.asarray(part, dtype=np.float64).sum() for part in reduced)
    kind, _, length = split.partition("@")
    size = sizes["test" if length else split]
    nats, bits = loss / tokens, 1 / math.log(2) / size.characters
    at = [summed / count * bits for summed, count in zip(ends[::2], ends[1::2], strict=True)]
    if kind == "repeat":
        return {"loss": float(nats), "bits_first": float(at[2]), "bits_again": float(at[3])}
    figures = {"loss": nats, "bits_per_char": nats * bits, "accuracy": hits / tokens}
    if length:
        figures |= {"bits_first_tenth": at[0], "bits_last_tenth": at[1]}
    elif size.words:
        figures["perplexity_per_word"] = math.exp(min(nats / size.words, MOST_NATS))
    return {figure: float(value) for figure, value in figures.items()}
