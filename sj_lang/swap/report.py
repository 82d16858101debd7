"""What `swap` did, place by place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwapPlace:
    """One neuron of the network.

    name: as in `net.named_modules()`. was, now: class names ("" if nothing was put in). channels:
    size of axis 2 of `[T, B, C, ...]` there. reason: why it was left as it was, "" if it was
    replaced. note: what did not carry over.
    """

    name: str
    was: str
    now: str = ""
    channels: int = 0
    reason: str = ""
    note: str = ""


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

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)} of {len(self.places)} neurons"]
        for place in self.places:
            if place.reason:
                lines.append(f"  {place.name}: {place.was} left: {place.reason}")
            else:
                note = f" ({place.note})" if place.note else ""
                lines.append(f"  {place.name}: {place.was} -> {place.now}, {place.channels} channels{note}")
        return "\n".join(lines)
