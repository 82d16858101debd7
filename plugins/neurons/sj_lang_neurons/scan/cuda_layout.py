"""How the CUDA kernels see tensors and cut the work: the words of `tile.cuh` in Python."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sj_lang.operators import keep_with_last_result
from sj_lang_neurons.scan.chain import MOST_GROUPS

PLAIN = 32_768  # columns from which one thread each keeps the memory busy
STEPS = 8  # steps of a run: more of them would need registers and hide no more latency
THREADS = 65_536  # wanted with fewer columns, from runs side by side
FEW = 16 * 132  # columns, of which 16 a block would leave some of an H200's multiprocessors idle
BLOCKS = 2 * 132  # of split sequences, with 256 threads: two for each multiprocessor of an H200
SPLIT_BELOW = 4_096  # columns: with fewer, blocks that have all steps do not fill an H200
SPLIT_FROM = 2_048  # steps: with fewer, there are too few tiles to gain by it


@dataclass(frozen=True)
class Tile:
    """columns of a block; runs of so many steps each, side by side.

    split: a block has one tile, and hands the state on to the block of the next (`chain.cuh`);
    otherwise it has all tiles of its columns.
    """

    columns: int
    runs: int
    steps: int
    split: bool = False

    @property
    def length(self) -> int:
        """How many steps a tile has."""
        return self.runs * self.steps

    @property
    def block(self) -> tuple[int, int]:
        return self.columns, self.runs

    @property
    def macros(self) -> dict[str, int]:
        macros = {"COLUMNS": self.columns, "RUNS": self.runs, "STEPS": self.steps}
        return {**macros, "SPLIT": 1} if self.split else macros

    def blocks(self, columns: int) -> int:
        return -(-columns // self.columns)

    def tiles(self, steps: int) -> int:
        return -(-steps // self.length)

    def parts(self, steps: int) -> int:
        """In how many parts blocks have a column."""
        return self.tiles(steps) if self.split else 1

    def grid(self, groups: int, steps: int) -> tuple[int, int]:
        """groups: how many blocks have all columns. Of a split sequence more, to fill a GPU."""
        if not (groups and self.split):
            return groups, 1
        assert groups <= MOST_GROUPS, "chain.cuh has no more counters"
        return groups * min(self.tiles(steps), -(-BLOCKS // groups)), 1


def schedule(columns: int, steps: int) -> Tile:
    """Enough threads to keep the memory busy, in few shapes, as each is compiled."""
    if columns < SPLIT_BELOW and steps >= SPLIT_FROM:
        return Tile(8, 32, 2 * STEPS, split=True)
    if columns >= PLAIN or steps <= STEPS:
        return Tile(32, 1, STEPS)
    if columns * 4 >= THREADS or steps <= 4 * STEPS:
        return Tile(32, 4, STEPS)
    if columns * 16 >= THREADS or steps <= 16 * STEPS:
        return Tile(32, 16, STEPS)
    return Tile(8 if columns < FEW else 16, 32, STEPS)


def flat(x: Tensor) -> Tensor:
    """x [T, B, C, ...] with at most one axis for its places, a view if its memory allows one."""
    return x if x.dim() <= 4 else x.flatten(3)


def sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Steps, batch, channels and places of x [T, B, C, ...]."""
    steps, batch, channels, *places = x.shape
    return steps, batch, channels, math.prod(places)


def strides(x: Tensor) -> tuple[int, ...]:
    """The strides of x [T, B, C, ...] as `flat` gives it, for STRIDES."""
    x = flat(x)
    return x.stride() if x.dim() == 4 else (*x.stride(), 1)


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for a result of x's shape and layout, without overlaps and gaps; `flat` is a view."""
    if x.dim() <= 4:
        return torch.empty_like(x, dtype=dtype)
    *outer, place = torch.empty_like(flat(x), dtype=dtype).stride()
    inner = [place * math.prod(x.shape[axis + 1 :]) for axis in range(3, x.dim())]
    return torch.empty_strided(x.shape, (*outer, *inner), dtype=dtype or x.dtype, device=x.device)


def layout(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """What `like` gives, without memory."""
    return like(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"), dtype)


def keep(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """`keep_with_last_result`; a gradient of zeros stays None, as writing zeros costs a launch."""
    keep_with_last_result(ctx, arguments, output)
    ctx.set_materialize_grads(False)


def zeros(x: Tensor, states: Tensor, kind: int) -> Tensor:
    """A zero gradient of the spikes of x, or with kind 0 of potentials in the states' dtype."""
    return x.new_zeros((), dtype=x.dtype if kind else states.dtype).expand(x.shape)


def whole(x: Tensor | None) -> Tensor | None:
    """x, contiguous, for what the kernels take without strides."""
    return None if x is None else x.contiguous()
