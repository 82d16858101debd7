"""The grids that spikes lie on: their range, their firing, and what a fitted grid must be."""

from __future__ import annotations

from torch import Tensor

from sj_lang.errors import choices
from sj_lang_neurons.firing import Rect

SPIKES = ("binary", "ternary", "integer")
MARGIN = 0.5  # of `Rect`; on the grid 0, 1 it is 0, as gradients explode with more


def spike_range(spikes: str, levels: int | None, signed: bool) -> tuple[int, int]:
    """The lowest and the highest spike. Raises ValueError for options that do not go together."""
    if spikes not in SPIKES:
        raise ValueError(f"BPSN: no spikes {spikes!r}; {choices(str(spikes), SPIKES)}")
    if spikes == "integer":
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise ValueError(
                f'BPSN: levels is {levels!r}; spikes="integer" needs the largest spike, a whole number of at least 1'
            )
        return -levels if signed else 0, levels
    if levels is not None:
        raise ValueError(f'BPSN: levels={levels!r} needs spikes="integer", got spikes="{spikes}"')
    if not signed:
        raise ValueError(f'BPSN: signed=False needs spikes="integer", got spikes="{spikes}"')
    return (0, 1) if spikes == "binary" else (-1, 1)


def firing_of(low: int, high: int) -> Rect:
    """The firing of a grid with this range of spikes."""
    return Rect(low, high, MARGIN if (low, high) != (0, 1) else 0.0)


def check_steps(step: Tensor, offset: Tensor, channels: int) -> None:
    """Raises ValueError unless step, above 0, and offset are finite, one for each channel."""
    for name, value in (("step", step), ("offset", offset)):
        if value.shape != (channels,):
            raise ValueError(f"BPSN: {name} must have shape ({channels},), got {tuple(value.shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"BPSN: {name} must be finite, got {value.tolist()}")
    if not bool((step > 0).all()):
        raise ValueError(f"BPSN: step must be above 0, the smallest is {float(step.min())}")
