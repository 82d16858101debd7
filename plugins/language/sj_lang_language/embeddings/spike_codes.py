"""Spike embeddings from codes: tokens and positions, fixed or learned, side by side or summed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sj_lang import compat
from sj_lang.errors import UserError
from sj_lang_language.embeddings.learned_sum import EmbeddingTable


class SpikeCodes(nn.Module):
    """S = [token code, position code], or their sum; codes are {0, 1}.

    From Beger et al. 2026 (arXiv 2606.12287). All fixed codes are distinct. A learned code is a
    table, binarised by a step whose surrogate lets it learn. The ANN twin keeps a learned table as
    it is.

    vocab_size: V; dim: D; max_length: L; twin: the float embedding of the ANN twin (handed in by
        the model).
    token: "one_hot", V channels; "binary", as many as the last id has digits; "learned"; or
        "float", a table that is not binarised.
    position: "one_hot", "binary"; "static", the signs of sines and cosines; "learned"; or "none":
        then texts may have any length.
    summed: each part has all D channels, and spikes are 0, 1 or 2. Otherwise a fixed code has the
        channels that it needs (static: half of D), the other part has the rest, and two learned
        ones have half of D each. A code that has more channels than it needs is repeated in them.
    surrogate_function: a SpikingJelly surrogate by name. std, position_std: deviation of the normal
        distributions from which the tables are drawn; None: the model's `initializer_range`.
    """

    handed_in = frozenset({"vocab_size", "dim", "max_length", "twin"})

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        max_length: int,
        twin: bool = False,
        token: Literal["one_hot", "binary", "learned", "float"] = "learned",
        position: Literal["one_hot", "binary", "static", "learned", "none"] = "learned",
        summed: bool = False,
        surrogate_function: str = "ATan",
        std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        needs: dict[str, Callable[[int], int]] = {**NEEDS, "static": lambda rows: dim // 2}
        widths = {"token": dim, "position": dim}
        if position != "none" and not summed:
            fixed = {"token": (token, vocab_size), "position": (position, max_length)}
            least = {part: needs[kind](rows) for part, (kind, rows) in fixed.items() if kind in needs}
            widths["position"] = least.get("position", dim - least.get("token", dim // 2))
            widths["token"] = dim - widths["position"]
        self.max_length = None if position == "none" else max_length
        self.summed = summed
        self.token = _part("token", token, vocab_size, widths["token"], std)
        self.position = (
            None if position == "none" else _part("position", position, max_length, widths["position"], position_std)
        )
        self.step = nn.Identity() if twin else compat.surrogate(surrogate_function)
        self.token_step = nn.Identity() if token == "float" else self.step

    def forward(
        self, ids: Tensor, positions: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """ids, positions `[L, B]` to spikes `[L, B, D]`. segments and mask are not read."""
        tokens: Tensor = self.token(ids)
        tokens = self.token_step(tokens) if isinstance(self.token, nn.Embedding) else tokens
        if self.position is None:
            return tokens
        places: Tensor = self.position(positions)
        places = self.step(places) if isinstance(self.position, nn.Embedding) else places
        return tokens + places if self.summed else torch.cat([tokens, places], -1)


class Codes(nn.Module):
    """A fixed code for each of `rows` numbers, `[rows, width]`, by `make(rows, width)`."""

    codes: Tensor

    def __init__(self, make: Callable[[int, int], Tensor], rows: int, width: int) -> None:
        super().__init__()
        self._fresh = partial(make, rows, width)
        self.register_buffer("codes", torch.empty(rows, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.copy_(self.codes, self._fresh())

    def forward(self, numbers: Tensor) -> Tensor:
        return self.codes[numbers]


def digits(rows: int) -> int:
    """Binary digits of the numbers 0 to rows - 1."""
    return max(1, math.ceil(math.log2(rows)))


#: code -> the channels in which so many numbers have distinct ones
NEEDS: dict[str, Callable[[int], int]] = {"one_hot": int, "binary": digits}


def one_hot(rows: int, width: int) -> Tensor:
    return _repeated(torch.eye(rows), width)


def binary(rows: int, width: int) -> Tensor:
    """The binary digits of each number, the last digit first."""
    places = torch.arange(digits(rows))
    return _repeated((torch.arange(rows)[:, None] >> places & 1).float(), width)


def static(rows: int, width: int) -> Tensor:
    """Signs of sines and cosines. Wavelengths grow from 4 to 2 rows, evenly in the logarithm."""
    waves = torch.logspace(math.log2(4), math.log2(max(4, 2 * rows)), max(1, -(-width // 2)), base=2)
    angles = (torch.arange(rows)[:, None] + 0.5) * (2 * math.pi / waves)
    return (torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width] > 0).float()


def _repeated(code: Tensor, width: int) -> Tensor:
    return code.repeat(1, -(-width // code.shape[1]))[:, :width]


def _part(name: str, kind: str, rows: int, width: int, std: float | None) -> nn.Module:
    """A table, or fixed codes. UserError if there are too few channels for distinct ones."""
    makes = {"one_hot": one_hot, "binary": binary, "static": static}
    if kind not in makes:
        if width < 1:
            raise UserError(f"spike_codes: no channel of hidden_size is left for {name}; raise it, or take other codes")
        return EmbeddingTable(rows, width, std)
    least = NEEDS[kind](rows) if kind in NEEDS else 1
    with torch.device("cpu"):  # transformers builds on `meta`, where nothing can be compared
        distinct = width >= least and (kind != "static" or len({*map(tuple, static(rows, width).tolist())}) == rows)
    if not distinct:
        raise UserError(
            f"spike_codes: {name} {kind} of {rows:,} numbers needs {'more' if least == 1 else least} channels for "
            f"distinct codes, and has {max(width, 0)}; raise hidden_size, or take other codes"
        )
    return Codes(makes[kind], rows, width)
