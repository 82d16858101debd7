"""What a product is, and what its operands hold: binary, ternary or integer spikes, or floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

LEVELS = 255  # the largest spike

aten = torch.ops.aten
#: matrix products, and which of their arguments are multiplied
OPERANDS: Mapping[Any, tuple[int, int]] = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.addbmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.mv: (0, 1),
    aten.addmv: (1, 2),
    aten.dot: (0, 1),
    aten.convolution: (0, 1),
}
#: operators with products inside that are not counted: with them no figure is given
CLOSED = ("_rnn", "rnn_", "lstm", "gru", "_trilinear", "_native_multi_head_attention", "_transformer_encoder", "sparse")


class Operand(NamedTuple):
    """What a tensor holds. most: the largest spike, None for floats. mean: the mean spike size."""

    most: int | None
    signed: bool
    mean: float
    bits: int

    @property
    def kind(self) -> str:
        """In words: binary spikes are 0 or 1, ternary ones -1, 0 or 1."""
        if self.most is None:
            return "float"
        if self.most <= 1:
            return "ternary" if self.signed else "binary"
        return f"integer, {-self.most if self.signed else 0} to {self.most}"

    def wider(self, other: Operand) -> Operand:
        """An operand that can hold the values of both."""
        most = None if self.most is None or other.most is None else max(self.most, other.most)
        return Operand(most, self.signed or other.signed, max(self.mean, other.mean), max(self.bits, other.bits))


def operand(x: Tensor) -> Operand:
    """What x holds, up to one scale; all zeros are binary spikes that did not fire."""
    floats = Operand(None, True, 0.0, 8 * x.element_size())
    if x.is_complex():
        return floats
    dtype = torch.promote_types(x.dtype, torch.float32)
    numbers = whole_numbers(x, dtype)
    if numbers is None:  # without a spike of 1, as means over a few steps have it
        sizes = torch.unique(x.detach().abs())
        least = float(sizes[sizes > 0].min()) if bool((sizes > 0).any()) and len(sizes) <= LEVELS else 0.0
        units = (least / k for k in range(2, 9) if least and whole_numbers(sizes, dtype, least / k))
        numbers = next((whole_numbers(x, dtype, unit) for unit in units), None)
    if numbers is None:
        return floats
    sizes = numbers[0].abs()
    most = int(sizes.max()) if x.numel() else 0
    signed = most > 0 and bool((numbers[0] < 0).any()) and bool((numbers[0] > 0).any())
    bits = max(math.ceil(math.log2(most + 1)), 1) + signed
    return Operand(most, signed, float(sizes.sum(dtype=torch.float64)) / max(x.numel(), 1), bits)


def spikes(x: Tensor) -> float | None:
    """Mean spike of x, if it holds spikes up to one scale (0, s, 2s, ... 255 s); else None.

    The scale can be in the weights. Signs don't matter. All zeros are spikes that did not fire.
    """
    held = operand(x)
    return None if held.most is None else held.mean


def terms(packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> float:
    """How many multiplications a product takes. A convolution's padding counts like the rest."""
    if packet is aten.convolution:
        return float(flop_registry[packet](*args, **kwargs, out_val=out) / 2)
    a, b = (args[i] for i in OPERANDS[packet])
    return float(a.numel() * (b.shape[-1] if b.dim() > 1 else 1))


def whole_numbers(x: Tensor, dtype: torch.dtype, unit: float | None = None) -> tuple[Tensor, float] | None:
    """x as whole numbers up to `LEVELS`, of this dtype, and their unit; None if it is not that.

    unit: None is the smallest number that is not 0.
    """
    size = x.detach().to(dtype)
    fired = size[size != 0]
    if not fired.numel():
        return size, 1.0
    step = fired.abs().min() if unit is None else unit
    levels = size / step
    whole = levels.round()
    eps = torch.finfo(x.dtype if x.is_floating_point() else dtype).eps
    near = (levels - whole).abs() <= (4 * eps * levels.abs()).clamp(max=0.05)
    return (whole, float(step)) if bool(near.all()) and bool((levels.abs() <= LEVELS).all()) else None
