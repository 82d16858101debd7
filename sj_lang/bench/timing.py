"""Time and memory of work on the CPU and on a GPU, and the machine that does it."""

import ctypes
import platform
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch

Timed = TypeVar("Timed", bound=Hashable)
Times = TypeVar("Times")


class Stopwatch:
    """Milliseconds between marks: on a GPU by its own clock, without the wait for the host."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"
        self.times: list[float] = []
        self.events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.events.append(event)
        else:
            self.times.append(time.perf_counter())

    def laps(self) -> list[float]:
        """Milliseconds from each mark to the next."""
        if self.cuda:
            torch.cuda.synchronize()
            return [float(before.elapsed_time(after)) for before, after in pairwise(self.events)]
        return [(after - before) * 1e3 for before, after in pairwise(self.times)]


def milliseconds(work: Callable[[], object], device: str) -> float:
    """The milliseconds that one call takes."""
    watch = Stopwatch(device)
    watch.mark()
    work()
    watch.mark()
    return watch.laps()[0]


def in_turn(
    timed: Mapping[Timed, Callable[[], Times]], rounds: int, slow: Collection[Timed] = ()
) -> dict[Timed, list[Times]]:
    """What each function returns in each round; one more round before them warms up.

    The functions take turns, so that a noisy machine disturbs all of them alike. Those named in
    `slow` take part in the first round only.
    """
    times: dict[Timed, list[Times]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        for name, once in timed.items():
            if turn > 1 and name in slow:
                continue
            result = once()
            if turn:
                times[name].append(result)
    return times


def peak(work: Callable[[], object], device: str) -> float | None:
    """Megabytes that the work needs above those resident before; None if the system cannot tell."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return None
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what the allocator kept of earlier rounds would hide the peak
    reset.write_text("5", encoding="utf-8")
    before_kb = _field(status, "VmRSS")
    work()
    return (_field(status, "VmHWM") - before_kb) / 2**10


def _field(status: Path, name: str) -> int:
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1])


def machine(device: str) -> str:
    """What the figures were measured on and with."""
    where = torch.cuda.get_device_name() if device != "cpu" else f"cpu, {torch.get_num_threads()} threads"
    return (
        f"{where}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"spikingjelly {version('spikingjelly')}, sj-lang {version('sj-lang')}"
    )
