"""Time on the CPU and on a GPU, and what a GPU's memory can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

COPY = 1 << 28  # bytes: far more than a cache holds


class Stopwatch:
    """Milliseconds between marks: on a GPU those of its own clock, so the wait for the host is not in them."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"
        self.marks: list[float | torch.cuda.Event] = []

    def mark(self) -> None:
        if not self.cuda:
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self.marks.append(event)

    def laps(self) -> list[float]:
        """Of each pair of neighbours."""
        if self.cuda:
            torch.cuda.synchronize()
        return [_between(a, b) for a, b in zip(self.marks, self.marks[1:], strict=False)]


def _between(a: float | torch.cuda.Event, b: float | torch.cuda.Event) -> float:
    if isinstance(a, torch.cuda.Event) and isinstance(b, torch.cuda.Event):
        return float(a.elapsed_time(b))
    assert isinstance(a, float)
    assert isinstance(b, float)
    return (b - a) * 1e3


def copy_rate(device: str, repeat: int = 10) -> float:
    """Bytes per second, read and written, of a copy from device to device."""
    source = torch.empty(COPY, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    watch = Stopwatch(device)
    for _ in range(repeat + 1):
        target.copy_(source)
        watch.mark()
    return 2 * COPY / (statistics.median(watch.laps()) / 1e3)


def host_us(work: Callable[[], object], repeat: int = 50) -> float:
    """Microseconds until the work is handed to the GPU, not until it is done."""
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)


def graph_us(work: Callable[[], object], repeat: int = 50) -> float:
    """Microseconds of the work replayed as a CUDA graph, on the GPU's clock."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    watch = Stopwatch("cuda")
    for _ in range(repeat + 1):
        graph.replay()
        watch.mark()
    return statistics.median(watch.laps()) * 1e3
