"""Causal language modelling: predict the next token of any text."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data.text import corpus
from sj_lang_language.data.text.windows import IGNORED, HeldOutWindows, TrainingWindows, stack
from sj_lang_language.tasks import texts


class CausalLM(texts.TextTask):
    """Train on windows of a text, and test on the end of it.

    data: a registered source, hub:owner/name[/config], a .txt or .txt.gz file, a folder of them, a
        list of these (each is cut by itself), or a mapping; a recipe may leave it to the command
        line (task.data=PATH).
    length: L, tokens of a window, and the longest text the model can read.
    stride: tokens between the beginnings of two training windows. None: `length`, so that an epoch
        reads each token once. 1: every beginning there is, drawn without replacement; an epoch then
        has as many windows as the text has tokens, so set train.max_steps.
    split: shares of train, validation and test, in characters; they must add up to 1. The text is
        cut in this order before anything is tokenized; no window reaches across a cut. Parts that
        the data bring are used as they are; missing ones are cut from the end of the training text.
        Without validation (share 0) nothing is evaluated during training.

    Validation and test are read in windows of `length` without overlap, the state reset in each;
    every token but the first of a part is predicted once. The figures are exact means over these
    tokens: `loss`, nats per token; `bits_per_char`, over the characters of the predicted tokens;
    `accuracy`, the share of tokens that got the largest logit.
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
        split: tuple[float, ...] = (0.9, 0.05, 0.05),
    ) -> None:
        if length < 1 or (stride is not None and stride < 1):
            raise UserError(f"task: length {length} and stride {stride} must be 1 or more")
        texts.check_split(split)
        self.data: Any = data
        self.length, self.stride, self.split = length, stride or length, split

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. seed: not needed, as the trainer orders the windows."""
        texts.check_given(self.data)
        parts = texts.read(self.data, self.split)
        made = tokenizer(texts=texts.pieces(parts["train"]))
        need = f"a window of task.length {self.length} tokens and one more"
        tokens = texts.encode_parts(made, parts, data=self.data, split=self.split, least=self.length + 1, need=need)
        pad = made.pad_token_id or 0
        held_out = {name: HeldOutWindows(tokens[name], self.length, pad) for name in tokens if name != "train"}
        return Prepared(
            tokenizer=made,
            train=TrainingWindows(tokens["train"], self.length, self.stride),
            validation=held_out.get("validation"),
            tests={"test": held_out["test"]},
            reduce=reduce,
            metrics=partial(metrics, {name: characters_per_token(made, parts[name], tokens[name]) for name in parts}),
            collate=stack,
            label_names=["shift_labels"],
            loss="mean negative log likelihood of a token, in nats",
            model=texts.model_fields(made, self.length)
            | {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id},
            fingerprint={"data": self.data, **corpus.fingerprint(parts)},
            notes=self._notes(made, parts, tokens),
        )

    def sample_prompt(self, prepared: Prepared) -> str | None:
        """The beginning of the test text, an eighth of a window long."""
        tokens = prepared.tests["test"][0]["input_ids"][: max(1, self.length // 8)]
        return None if prepared.tokenizer is None else str(prepared.tokenizer.decode(tokens))

    def _notes(
        self, tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, str], tokens: Mapping[str, Tensor]
    ) -> list[str]:
        notes = texts.size_notes(tokenizer, parts, tokens)
        start = parts["train"][:10_000]
        reads_all = not int((tokens["train"] == tokenizer.unk_token_id).sum()) if tokenizer.unk_token else True
        if reads_all and tokenizer.decode(texts.encode(tokenizer, start)) != start:
            notes.append("the tokenizer does not reproduce its text exactly; bits_per_char counts the characters read")
        return notes


def characters_per_token(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Tensor) -> float:
    """Characters per predicted token; those of the first, never predicted token do not count."""
    return (len(text) - len(tokenizer.decode(tokens[:1]))) / (len(tokens) - 1)


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss (nats), scored tokens and hits of each window, `[B]` each.

    logits `[B, L, V]`; labels `[B, L]`, the token after each input ("shift_labels").
    """
    loss = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return loss.sum(1), (labels != IGNORED).sum(1), (logits.argmax(-1) == labels).sum(1)


def metrics(characters: Mapping[str, float], split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split from what `reduce` gave. characters: per predicted token, by split."""
    loss, tokens, hits = (np.asarray(part, dtype=np.float64).sum() for part in reduced)
    nats = float(loss / tokens)
    bits = float(nats / math.log(2) / characters[split])
    return {"loss": nats, "bits_per_char": bits, "accuracy": float(hits / tokens)}
