"""Which firing `surrogates.cuh` can compute inside a kernel: the macro FIRE and its number alpha."""

from __future__ import annotations

from torch import nn

POTENTIALS = 0  # no firing: the kernel gives potentials
RECT = 1  # alpha: the largest spike
HEAVISIDES = {
    "ATan": 2,
    "Sigmoid": 3,
    "PiecewiseQuadratic": 4,
    "PiecewiseExp": 5,
    "SoftSign": 6,
    "Erf": 7,
    "SuperSpike": 8,
    "Rect": 9,
}


def heaviside(surrogate: nn.Module) -> tuple[int, float] | None:
    """FIRE and alpha of a surrogate of SpikingJelly; None if it is another, or smooth: then it fires outside."""
    kind = HEAVISIDES.get(type(surrogate).__name__)
    known = kind is not None and type(surrogate).__module__.startswith("spikingjelly.")
    if kind is None or not known or not surrogate.spiking:
        return None
    return kind, float(surrogate.alpha)  # type: ignore[arg-type]


def why_not(surrogate: nn.Module) -> str:
    """Why a fused kernel is refused for it; "" if it is not. A smooth form fires outside, and says so by its mode."""
    if heaviside(surrogate) or not getattr(surrogate, "spiking", True):
        return ""
    name = type(surrogate).__name__
    return f'has no fused firing for {name}, only for {", ".join(HEAVISIDES)}; backend "auto" fires it unfused'
