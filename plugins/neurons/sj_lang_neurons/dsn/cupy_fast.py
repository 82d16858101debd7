"""DSN's kernel without bounds, `fast.cu`: calls that it takes, schedule, launches."""

import struct
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang_neurons.dsn.inputs import DSNInputs
from sj_lang_neurons.scan.cuda_layout import PLAIN, STEPS, Tile, sizes

FILE = Path(__file__).with_name("fast.cu")
PAIRS = 32  # pairs of columns in a block
LEAST_COLUMNS = 8_192  # with fewer, more runs than these fill the GPU better
MOST_STRIDE = 2**26  # words between steps: offsets within a run are counted in int


def schedule(inputs: DSNInputs, kind: int) -> Tile | None:
    """The tile of a call that `fast.cu` can run if the tensors are `aligned`; None if it cannot.

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
    if columns < LEAST_COLUMNS or columns % (2 * PAIRS) or channels % 2:
        return None
    tile = Tile(PAIRS, 1 if columns >= 2 * PLAIN else 4, STEPS)
    return tile if steps and steps % tile.length == 0 else None


def aligned(*tensors: Tensor) -> bool:
    """Whether two neighbouring channels of each [T, B, C] are one word."""
    for x in tensors:
        step, sequence, channel = x.stride()
        if channel != 1 or step % 2 or (sequence % 2 and x.shape[1] > 1) or x.data_ptr() % 4:
            return False
        if step // 2 >= MOST_STRIDE:
            return False
    return True


def words(x: Tensor) -> tuple[Tensor, int, int]:
    """x as the kernel takes it: strides of steps and sequences, in words."""
    return x, x.stride(0) // 2, x.stride(1) // 2


@lru_cache(maxsize=64)
def bits(number: float) -> int:
    """The bits of a number as float32: the kernel takes them as an integer and reads a float."""
    value: int = struct.unpack("<I", struct.pack("<f", number))[0]
    return value


def forward(inputs: DSNInputs, macros: cuda.Macros, tile: Tile, results: tuple[Tensor, ...], *firing: float) -> None:
    """Launch the forward kernel. firing: alpha and threshold."""
    out, *states = results
    parameters = (inputs.weight.contiguous(), inputs.bias.contiguous())
    _launch("dsn_fast", inputs, macros, tile, [*words(inputs.x), *parameters, *words(out), *states], firing)


def backward(
    inputs: DSNInputs,
    macros: cuda.Macros,
    tile: Tile,
    read: tuple[Tensor, Tensor | None, Tensor],
    written: tuple[Tensor, Tensor],
    *firing: float,
) -> None:
    """Launch the backward kernel. read: the gradients of the spikes and of the last potential, and
    the borders. written: the gradient of x, and the sums.

    firing: alpha, threshold and margin.
    """
    grad, *others = read
    grad_x, sums = written
    parameters = (inputs.weight.contiguous(), inputs.bias.contiguous())
    arguments = [*words(grad), *others, *words(inputs.x), *parameters, *words(grad_x), sums]
    _launch("dsn_fast_backward", inputs, macros, tile, arguments, firing)


def _launch(
    name: str,
    inputs: DSNInputs,
    macros: cuda.Macros,
    tile: Tile,
    arguments: list[Tensor | int | None],
    firing: tuple[float, ...],
) -> None:
    x = inputs.x
    steps, batch, channels, _ = sizes(x)
    numbers = [bits(number) for number in (inputs.m, *firing)]
    grid = (batch * channels // (2 * PAIRS), 1)
    cuda.launch(FILE, name, macros, grid, tile.block, [*arguments, steps, batch, channels, *numbers], x.device)
