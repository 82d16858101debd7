"""Masked language modelling, BERT's pre-training, with next-sentence prediction if wanted."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared
from sj_lang_language.data.text import corpus
from sj_lang_language.data.text.masked import Frame, Item, Masked, Masking, Windows, add_mask_token
from sj_lang_language.data.text.pairs import Pairs, documents, pairs
from sj_lang_language.data.text.stream import MaskedStream, Reader, hold_out, open_source
from sj_lang_language.data.text.windows import IGNORED, stack
from sj_lang_language.tasks import texts

HELD_OUT = 0  # the seed of masks in validation and test, so that all seeds compare
VOCABULARY = 100_000  # rows of each streamed source from which a tokenizer may learn


class MaskedLM(texts.TextTask):
    """Train on windows of a text to predict the tokens that are masked.

    data, split: as for `causal_lm`.
    length: L, tokens of a window, `[CLS]` and `[SEP]` included, and the longest text the model can
        read.
    mlm_probability: p, the share of tokens that are chosen; of these .8 become `[MASK]`, .1 a
        random token and .1 stay. Masks are drawn anew in each epoch; those of validation and test
        are always the same.
    nsp: also tell whether the second of two pieces of text follows the first, with the model of
        AutoModelForPreTraining. Blank lines separate documents; in a stream, rows are documents.
    streaming: read the text while training, for text too large for memory: data of the hub or text
        files, one or a list. Then `split` has no meaning: validation and test are the first
        windows. Needs train.max_steps.
    held_out: windows of validation, and as many of test, in a stream; of a list in equal parts.

    Figures, exact means over the masked tokens: `loss`, nats per masked token; `perplexity`,
    e^loss; `accuracy`, the share of them that got the largest logit. With nsp: `nsp_loss`, nats per
    pair, and `nsp_accuracy`.
    """

    causal: bool = False

    def __init__(
        self,
        *,
        data: Data | list[Data] | None = None,
        length: int = 128,
        mlm_probability: float = 0.15,
        nsp: bool = False,
        split: tuple[float, ...] = (0.9, 0.05, 0.05),
        streaming: bool = False,
        held_out: int = 1000,
    ) -> None:
        texts.check_split(split)
        for key, value, least in (("length", length, 8), ("held_out", held_out, 1)):
            if value < least:
                raise UserError(f"task.{key} is {value}; expected {least} or more")
        if not 0 < mlm_probability < 1:
            raise UserError(f"task.mlm_probability is {mlm_probability}; expected a share above 0 and below 1")
        self.data: Any = data
        self.length, self.p, self.nsp, self.split = length, mlm_probability, nsp, split
        self.streaming, self.held_out = streaming, held_out
        self.auto_class = "AutoModelForPreTraining" if nsp else "AutoModelForMaskedLM"
        self.pads = nsp

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. seed: of the masks and pairs of the training."""
        texts.check_given(self.data)
        return self._streamed(tokenizer, seed) if self.streaming else self._held(tokenizer, seed)

    def _held(self, tokenizer: MakeTokenizer, seed: int) -> Prepared:
        parts = texts.read(self.data, self.split)
        made = tokenizer(texts=texts.pieces(parts["train"]))
        notes = add_mask_token(made)
        frame, masking = self._frame(made), Masking(made, self.p)
        if self.nsp:
            windows: dict[str, Pairs | Windows] = {
                name: self._pairs(made, name, text, seed, frame) for name, text in parts.items()
            }
            notes += [f"{name}: {len(text):,} characters, {len(windows[name]):,} pairs" for name, text in parts.items()]
        else:
            need = f"{frame.room} tokens, as many as fit into a window of task.length {self.length}"
            tokens = texts.encode_parts(made, parts, data=self.data, split=self.split, least=frame.room, need=need)
            windows = {name: Windows(ids, frame, held_out=name != "train") for name, ids in tokens.items()}
            notes += texts.size_notes(made, parts, tokens)
        masked = {
            name: Masked(items, masking, seed if name == "train" else HELD_OUT) for name, items in windows.items()
        }
        train = masked.pop("train")
        return self._prepared(made, train, masked, corpus.fingerprint(parts), notes)

    def _pairs(self, tokenizer: PreTrainedTokenizerBase, name: str, text: str, seed: int, frame: Frame) -> Pairs:
        encoded = [texts.encode(tokenizer, document) for document in documents(text)]
        encoded = [ids for ids in encoded if len(ids) > 1]
        if len(encoded) < 2:
            raise UserError(
                f"task.nsp: {self.data} has {len(encoded)} document(s) in '{name}', and pairs need two or more: blank "
                "lines separate them. Give a text with blank lines, or set task.nsp=false"
            )
        draw = random.Random(f"{seed if name == 'train' else HELD_OUT} {name}")
        return Pairs(list(pairs(encoded, encoded, frame.room, draw)), frame)

    def _streamed(self, tokenizer: MakeTokenizer, seed: int) -> Prepared:
        if isinstance(self.data, Mapping) or self.data in corpus.sources():
            raise UserError(
                f"task.data: {self.data} cannot be streamed; with task.streaming give hub:owner/name[/config], a "
                "file, a folder, or a list of these"
            )
        sources = [open_source(place) for place in ([self.data] if isinstance(self.data, str) else self.data)]
        made = tokenizer(texts=(text for source in sources for text in islice(source.texts(), VOCABULARY)))
        notes = add_mask_token(made)
        frame, masking = self._frame(made), Masking(made, self.p)
        reader = Reader(made, frame, paired=self.nsp)
        half = -(-self.held_out // len(sources))
        taken = [hold_out(source, reader, 2 * half) for source in sources]
        validation = [item for items, _ in taken for item in items[:half]]
        test = [item for items, _ in taken for item in items[half:]]
        held = [rows for _, rows in taken]
        notes += [
            f"{source.name}: a stream; {len(rows):,} of its rows are held out"
            for source, rows in zip(sources, held, strict=True)
        ]
        items = {"validation": validation, "test": test}
        masked = {name: Masked(part, masking, HELD_OUT) for name, part in items.items()}
        digest = {name: _digest(part) for name, part in items.items()}
        return self._prepared(made, MaskedStream(sources, held, reader, masking, seed), masked, digest, notes)

    def _frame(self, tokenizer: PreTrainedTokenizerBase) -> Frame:
        if self.nsp and (tokenizer.cls_token is None or tokenizer.sep_token is None):
            raise UserError("task.nsp: pairs need a tokenizer with [CLS] and [SEP], e.g. tokenizer: wordpiece")
        return Frame(tokenizer, self.length, pairs=self.nsp)

    def _prepared(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: Any,
        held: Mapping[str, Masked],
        digest: Mapping[str, Any],
        notes: list[str],
    ) -> Prepared:
        return Prepared(
            tokenizer=tokenizer,
            train=train,
            validation=held.get("validation"),
            tests={"test": held["test"]},
            reduce=reduce_pretraining if self.nsp else reduce,
            metrics=metrics,
            collate=stack,
            label_names=["labels", "next_sentence_label"] if self.nsp else ["labels"],
            loss="mean negative log likelihood of a masked token, in nats",
            model=texts.model_fields(tokenizer, self.length),
            fingerprint={"data": self.data, **digest},
            notes=notes,
        )


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss (nats), masked tokens and hits of each window, `[B]` each, from `[B, L, V]`."""
    at = labels != IGNORED
    chosen, targets = logits[at].float(), labels[at]  # [M, V]: a seventh of the logits
    loss = torch.nn.functional.cross_entropy(chosen, targets, reduction="none")
    hits = (chosen.argmax(-1) == targets).to(loss)
    window = at.nonzero()[:, 0]
    zeros = loss.new_zeros(len(labels))
    return zeros.index_add(0, window, loss), at.sum(1), zeros.index_add(0, window, hits)


def reduce_pretraining(logits: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """`reduce` of the masked tokens, then loss (nats) and hit of each pair, from `[B, 2]`."""
    loss = torch.nn.functional.cross_entropy(logits[1].float(), labels[1].view(-1), reduction="none")
    return (*reduce(logits[0], labels[0]), loss, logits[1].argmax(-1) == labels[1].view(-1))


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split out of what `reduce` or `reduce_pretraining` gave."""
    loss, tokens, hits = (np.asarray(part, dtype=np.float64).sum() for part in reduced[:3])
    nats = float(loss / tokens)
    figures = {
        "loss": nats,
        "perplexity": math.exp(min(nats, 700.0)),  # e^710 overflows
        "accuracy": float(hits / tokens),
    }
    if len(reduced) > 3:
        figures |= {"nsp_loss": float(np.mean(reduced[3])), "nsp_accuracy": float(np.mean(reduced[4]))}
    return figures


def _digest(items: Sequence[Item]) -> dict[str, Any]:
    data = b"".join(item["input_ids"].numpy().tobytes() for item in items)
    return {"windows": len(items), "sha256": hashlib.sha256(data).hexdigest()}
