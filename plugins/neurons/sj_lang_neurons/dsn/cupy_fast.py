"""DSN's kernel without bounds, `fast.cu`: calls that it takes, schedule, numbers."""

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sj_lang_neurons.dsn.inputs import DSNInputs
from sj_lang_neurons.scan.cuda_layout import PLAIN, SPLIT_FROM, STEPS, Tile

FILE = Path(__file__).with_name("fast.cu")
PAIRS = 32  # pairs of columns in a block
SPLIT = Tile(8, 32, STEPS, split=True)  # for few columns
LEAST_COLUMNS = 8_192  # with fewer, a block with all steps and 4 runs does not fill the GPU
MOST_STRIDE = 2**26  # words between steps: offsets within a run are counted in int


def schedule(inputs: DSNInputs, kind: int) -> Tile | None:
    """The tile of a call that `fast.cu` can run if the tensors are `in_words`; None if it cannot.

    Both passes ask with the same inputs, because the backward pass reads one state per tile.
    """
    x = inputs.x
    if x.dtype not in (torch.bfloat16, torch.float16) or not kind or x.dim() != 3:
        return None
    if not (inputs.tail is None and inputs.h_0 is None and inputs.lengths is None):
        return None
    if inputs.bias.dim() > 1 or inputs.weight.shape[1] == 0:
        return None
    steps, batch, channels = x.shape
    columns = batch * channels
    if columns >= LEAST_COLUMNS:
        tile = Tile(PAIRS, 1 if columns >= 2 * PLAIN else 4, STEPS)
    elif steps >= SPLIT_FROM:
        tile = SPLIT
    else:
        return None
    whole = steps and steps % tile.length == 0 and columns % (2 * tile.columns) == 0 and channels % 2 == 0
    return tile if whole else None


def in_words(*layouts: Tensor) -> bool:
    """Whether two neighbouring channels of each [T, B, C] are one word if the first are."""
    for x in layouts:
        step, sequence, channel = x.stride()
        if channel != 1 or step % 2 or (sequence % 2 and x.shape[1] > 1) or step // 2 >= MOST_STRIDE:
            return False
    return True


def bits(number: float) -> int:
    """The bits of a number as float32: the kernel takes them as an integer and reads a float."""
    value: int = struct.unpack("<I", struct.pack("<f", number))[0]
    return value


def constants(layouts: Sequence[Tensor], x: Tensor, numbers: Sequence[float]) -> list[int | float]:
    """The numbers of a launch: strides in words, sizes, and the bits of what are floats."""
    in_words = [stride // 2 for y in layouts for stride in y.stride()[:2]]
    return [*in_words, *x.shape, *(bits(number) for number in numbers)]
