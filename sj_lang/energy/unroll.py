"""Integer spikes as what they stand for: binary spikes over sub-steps, with checked products.

A spike S in -N .. N is N spikes of -1, 0 or 1 (0 or 1 if S >= 0), one a sub-step:

    S = sum_{k=1..N} S_k,   S_k = [S >= k] - [S <= -k]            S W = sum_k S_k W

so a product with an integer spike of N is N products with binary spikes, which take only
accumulations. `unrolled` runs a model that way: each matrix product with an integer operand is
computed in sub-steps, and compared, bit for bit, with the product that it replaces. For that both
are taken in fixed point: the other operand is rounded to as many bits of its largest entry as leave
the sum exact in float64, 40 for 1,536 inputs with spikes up to 4. What differs from the model as it
is are float32's own rounding errors; if one of them decides a spike, as it does between two
machines too, what follows differs more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sj_lang.energy.products import OPERANDS, whole_numbers
from sj_lang.errors import RunFailed

EXACT = 53  # bits of the largest whole numbers up to which float64 holds every one
aten = torch.ops.aten


class Unrolled(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes are untyped
    """Runs products with integer operands in sub-steps; open it with `unrolled`.

    products: how many were run so and compared. substeps: of all of them together. least, most: the
    smallest and the largest spike; if none is below 0, each spike of a sub-step is 0 or 1.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = self.substeps = self.least = self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for place in OPERANDS.get(func.overloadpacket, ()) if func.overloadpacket is not aten.convolution else ():
            integers = _integers(args[place])
            if integers is not None:
                return self._product(func, args, place, integers, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _product(
        self, func: Any, args: tuple[Any, ...], place: int, integers: tuple[Tensor, float], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """The product by sub-steps, and whole to compare; bias and factors as they are."""
        first, second = OPERANDS[func.overloadpacket]
        spikes, unit = integers
        other, most = args[second if place == first else first], int(spikes.abs().max())
        inputs = spikes.shape[-1] if place == first else spikes.shape[-min(spikes.dim(), 2)]
        weights, exponent = _fixed_point(other, EXACT - (inputs * most).bit_length())

        def times_weights(operand: Tensor) -> Tensor:
            return operand @ weights if place == first else weights @ operand

        whole = times_weights(spikes)
        in_substeps = torch.zeros_like(whole)
        for k in range(1, most + 1):
            in_substeps += times_weights((spikes >= k).double() - (spikes <= -k).double())
        if not torch.equal(whole, in_substeps):
            raise RunFailed(f"unrolled: {func} of spikes up to {most} differs from its sub-steps")
        self.products, self.substeps = self.products + 1, self.substeps + most
        self.least, self.most = min(self.least, int(spikes.min())), max(self.most, most)
        product = in_substeps * (unit * 2.0**exponent)
        if first:  # addmm and the like; rounded once, as there
            product = args[0] * kwargs.get("beta", 1) + product * kwargs.get("alpha", 1)
        return product.to(args[place].dtype)


@contextmanager
def unrolled(model: nn.Module) -> Iterator[Unrolled]:
    """Inside, every matrix product of `model` with integer spikes runs in sub-steps.

    Fused attention is run as two products. Convolutions are left as they are. The scales of the
    spikes must be in the weights, as SNN-BERT has them: a product of scaled and shifted spikes is
    one of floats, and is not touched. Raises RunFailed if a product differs from its sub-steps.
    """
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield stack.enter_context(Unrolled())


def _integers(x: Tensor) -> tuple[Tensor, float] | None:
    """x as whole numbers, in float64, times a unit; None if it is not that, or zeros alone."""
    if not x.is_floating_point():
        return None
    unit = 1.0 if torch.equal(x, x.round()) else None  # spikes of 2 and 3 alone are whole already
    numbers = whole_numbers(x, torch.float64, unit)
    return numbers if numbers is not None and bool(numbers[0].any()) else None


def _fixed_point(x: Tensor, bits: int) -> tuple[Tensor, int]:
    """x as whole numbers of at most `bits` bits, in float64, times two to an exponent."""
    largest = float(x.detach().abs().max()) if x.numel() else 0.0
    exponent = (math.frexp(largest)[1] if largest else 0) - bits
    return (x.detach().double() * 2.0**-exponent).round(), exponent
