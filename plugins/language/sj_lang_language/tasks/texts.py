"""What the tasks on running text share: tokens of long texts, and what is wrong with a text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sj_lang.errors import UserError

PIECE = 1 << 17  # characters that are tokenized at a time: a tokenizer needs some 200 bytes a token


def check_split(split: Sequence[float]) -> None:
    """Raise UserError unless these are shares of train, validation and test."""
    if len(split) != 3 or min(split) < 0 or split[0] <= 0 or abs(sum(split) - 1) > 1e-6:
        raise UserError(
            f"task.split is {list(split)}; expected three shares, train, validation and test, of 0 or more, train "
            "above 0, that add up to 1, e.g. [0.9, 0.05, 0.05]"
        )


def check_given(data: Any) -> None:
    """Raise UserError if a recipe leaves its data to the command line, and there they are missing."""
    if data is None:
        raise UserError(
            "task.data is not set, and this recipe has no text of its own; give one, e.g. task.data=PATH/TO/FILE.txt"
        )


def check_parts(data: Any, parts: Mapping[str, str], split: Sequence[float]) -> None:
    """Raise UserError unless there is text to train on and text to test on."""
    for name in ("train", "test"):
        if not parts.get(name, "").strip():
            raise UserError(
                f"task.data: {data} has no text for '{name}' (task.split {list(split)}; characters: "
                f"{listed({part: len(text) for part, text in parts.items()})})"
            )


def check_lengths(
    data: Any, parts: Mapping[str, str], tokens: Mapping[str, Tensor], split: Sequence[float], *, least: int, need: str
) -> None:
    """Raise UserError unless each part has `least` tokens. need: what they make up."""
    if any(len(part) < least for part in tokens.values()):
        raise UserError(
            f"task.data: {data} is too short: each part needs {need}; "
            f"tokens: {listed({name: len(part) for name, part in tokens.items()})}; characters: "
            f"{listed({name: len(text) for name, text in parts.items()})}. Give more text, a smaller task.length, "
            f"or another task.split than {list(split)}"
        )


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
    """Token ids of the text, without special tokens, int32 `[N]`, N = 0 of an empty text. Long texts are tokenized in
    `pieces`."""
    rows: Iterable[list[int]] = (
        tokenizer(piece, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for piece in pieces(text)
    )
    return torch.cat([torch.empty(0, dtype=torch.int32), *(torch.tensor(ids, dtype=torch.int32) for ids in rows)])


def listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
