"""Windows of a fixed length over one sequence of tokens, as map-style data sets."""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


class TrainingWindows:
    """Full windows that begin at 0, stride, 2 stride ...: `length` tokens and the next ones."""

    def __init__(self, tokens: Tensor, length: int, stride: int) -> None:
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        return (len(self.tokens) - 1 - self.length) // self.stride + 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return _item(self.tokens, _checked(index, self) * self.stride, self.length, pad=0)


class HeldOutWindows:
    """Windows without overlap, one after another: each token but the first is predicted once.

    The last window is filled up with `pad`, on the right and not scored; a causal model sees
    nothing of it, so no attention mask is needed.
    """

    def __init__(self, tokens: Tensor, length: int, pad: int) -> None:
        self.tokens, self.length, self.pad = tokens, length, pad

    def __len__(self) -> int:
        return -(-(len(self.tokens) - 1) // self.length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return _item(self.tokens, _checked(index, self) * self.length, self.length, self.pad)


class RepeatedWindows:
    """Windows without overlap, each read twice in a row: of both copies the same tokens are scored.

    length: N, of one copy; an item has 2 N - 1 inputs. Neither the first token of the first copy,
    which nothing predicts, nor that of the second, which is a leap in the text, is scored.
    count: windows, spread evenly over the text, which must hold so many of them.
    """

    def __init__(self, tokens: Tensor, length: int, count: int) -> None:
        self.tokens, self.length, self.count = tokens, length, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = _checked(index, self) * (len(self.tokens) // self.count)
        item = _item(self.tokens[start : start + self.length].repeat(2), 0, 2 * self.length - 1, pad=0)
        item["labels"][self.length] = item["shift_labels"][self.length - 1] = IGNORED
        return item


def _checked(index: int, windows: TrainingWindows | HeldOutWindows | RepeatedWindows) -> int:
    if not 0 <= index < len(windows):
        raise IndexError(f"window {index} of {len(windows)}")
    return index


def _item(tokens: Tensor, start: int, length: int, pad: int) -> dict[str, Tensor]:
    """`length` inputs; "labels", which models shift; "shift_labels", the token after each input.

    transformers' losses score `shift_labels` if there are any, so that the last input predicts too.
    """
    span = tokens[start : start + length + 1].long()
    short = length + 1 - len(span)
    inputs = torch.nn.functional.pad(span, (0, short), value=pad)[:-1]
    labels = torch.nn.functional.pad(span, (0, short), value=IGNORED)
    return {"input_ids": inputs, "labels": labels[:-1], "shift_labels": labels[1:]}


def stack(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack items of equal shapes to one batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
