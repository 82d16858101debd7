"""What tasks on texts share: their length, tokens of long texts, and what is wrong with a text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang.task import Task
from sj_lang_language.data.text import corpus

PIECE = 1 << 17  # characters that are tokenized at a time: a tokenizer needs some 200 bytes a token


class TextTask(Task):
    """Base: a task whose longest text is known without the data."""

    #: tokens of a text at most
    length: int

    def outline(self) -> dict[str, object]:
        return {"max_position_embeddings": self.length}


def check_split(split: Sequence[float]) -> None:
    """Raise UserError unless these are shares of train, validation and test."""
    if len(split) != 3 or min(split) < 0 or split[0] <= 0 or abs(sum(split) - 1) > 1e-6:
        raise UserError(
            f"task.split is {list(split)}; expected three shares, train, validation and test, of 0 or more, train "
            "above 0, that add up to 1, e.g. [0.9, 0.05, 0.05]"
        )


def check_given(data: Any) -> None:
    """Raise UserError if neither the recipe nor the command line names the data."""
    if data is None:
        raise UserError(
            "task.data is not set, and this recipe has no text of its own; give one, e.g. task.data=PATH/TO/FILE.txt"
        )


def read(data: Any, split: Sequence[float]) -> dict[str, str]:
    """The texts of train, validation and test. Raises UserError if train or test has none."""
    parts = corpus.parts(data, split)
    for name in ("train", "test"):
        if not parts.get(name, "").strip():
            raise UserError(
                f"task.data: {data} has no text for '{name}' (task.split {list(split)}; characters: {_sizes(parts)})"
            )
    return parts


def encode_parts(
    tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, str], *, data: Any, split: Any, least: int, need: str
) -> dict[str, Tensor]:
    """Token ids of each part. Raises UserError unless each has `least` of them, for `need`."""
    tokens = {name: encode(tokenizer, text) for name, text in parts.items()}
    if any(len(part) < least for part in tokens.values()):
        raise UserError(
            f"task.data: {data} is too short: each part needs {need}; tokens: {_sizes(tokens)}; characters: "
            f"{_sizes(parts)}. Give more text, a smaller task.length, or another task.split than {list(split)}"
        )
    return tokens


def model_fields(tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, Any]:
    """The fields of a model's config that any text decides."""
    vocab_size, pad = len(tokenizer), tokenizer.pad_token_id
    return {"vocab_size": vocab_size, "max_position_embeddings": length, "pad_token_id": pad}


def size_notes(tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, str], tokens: Mapping[str, Tensor]) -> list[str]:
    """How large the parts are, and how much of them the tokenizer does not know."""
    notes = [f"{name}: {len(text):,} characters, {len(tokens[name]):,} tokens" for name, text in parts.items()]
    unknown = tokenizer.unk_token_id
    for name, ids in tokens.items():
        count = int((ids == unknown).sum()) if unknown is not None else 0
        if count:
            notes.append(f"{name}: {count:,} tokens are unknown ({tokenizer.unk_token}) and scored as such")
    return notes


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about `PIECE` characters, cut after a line end if there is one."""
    start = 0
    while start < len(text):
        end = start + PIECE
        end = text.rfind("\n", start, end) + 1 or end if end < len(text) else len(text)
        yield text[start:end]
        start = end


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Token ids of the text, tokenized in `pieces`, without special tokens, int32 `[N]`, N >= 0."""
    rows: Iterable[list[int]] = (
        tokenizer(piece, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for piece in pieces(text)
    )
    return torch.cat([torch.empty(0, dtype=torch.int32), *(torch.tensor(ids, dtype=torch.int32) for ids in rows)])


def _sizes(parts: Mapping[str, str | Tensor]) -> str:
    return ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
