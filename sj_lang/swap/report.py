"""What `swap` did, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: steps of the same input after which a neuron with a usual leak has settled
_MANY = 16


@dataclass(frozen=True)
class SwapPlace:
    """One neuron of the network.

    name: as in `net.named_modules()`. was, now: class names ("" if nothing was put in). channels:
    how many, on this axis of `[T, B, ...]`. why: what says that it is this axis. reason: why it was
    left as it was, "" if it was replaced. note: what did not carry over, or looks odd. rate_before,
    rate_after: share of the example's neuron steps that fired, None if the place was not swapped.
    repeated: at how many steps the net's own input feeds it the same; 0 if its input changes.
    choices: arguments that the new node's class chose for this network, those whose values are
    names.
    """

    name: str
    was: str
    now: str = ""
    channels: int = 0
    axis: int = 2
    why: str = ""
    reason: str = ""
    note: str = ""
    rate_before: float | None = None
    rate_after: float | None = None
    repeated: int = 0
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def silenced(self) -> bool:
        """Whether the old node fired while the example ran, and the new one does not."""
        return bool(self.rate_before) and self.rate_after == 0

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name}: {self.was} left: {self.reason}"
        notes = [self.note] if self.note else []
        if self.rate_before is not None and self.rate_after is not None:
            silent = ", silent" if self.silenced else ""
            notes.insert(0, f"fires {self.rate_before:.3f} -> {self.rate_after:.3f}{silent}")
        note = f" ({'; '.join(notes)})" if notes else ""
        why = f" ({self.why})" if self.why else ""
        axis = "" if self.axis == 2 else f" on axis {self.axis}{why}"
        choices = "".join(f", {argument} {value}" for argument, value in self.choices.items())
        return f"{self.name}: {self.was} -> {self.now}{choices}, {self.channels} channels{axis}{note}"


@dataclass(frozen=True)
class SwapReport:
    """What `swap` did, place by place. `print(report)` shows it."""

    places: tuple[SwapPlace, ...]

    @property
    def swapped(self) -> tuple[SwapPlace, ...]:
        """The places that hold a new node."""
        return tuple(place for place in self.places if not place.reason)

    @property
    def left(self) -> tuple[SwapPlace, ...]:
        """The places that were left as they were, each with its reason."""
        return tuple(place for place in self.places if place.reason)

    @property
    def silenced(self) -> tuple[SwapPlace, ...]:
        """The places that fired before the swap and no longer fire."""
        return tuple(place for place in self.places if place.silenced)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)} of {len(self.places)} neurons"]
        lines += [f"  {place}" for place in self.places]
        repeated = max((place.repeated for place in self.swapped), default=0)
        if repeated >= _MANY:
            lines.append(
                f"  the net is fed the same at each of {repeated} steps: neurons without a reset settle, and then fire "
                "always or never. The step at which they begin to fire tells how strong their input is, and a leak "
                "that forgets within a few steps hides that"
            )
        return "\n".join(lines)
