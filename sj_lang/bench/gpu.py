"""Time on a GPU: of kernels without the host's gaps, of the host alone, of a copy.

An event before and one after an eager call count the time in which the GPU waits for Python. So
calls are queued after a kernel that sleeps until all of them are handed over, and they read inputs
in turn, so that none is left in the cache.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sj_lang.bench.timing import Stopwatch

Call = Callable[[int], object]  # of the number of the call, which chooses the input

COPY = 1 << 28  # bytes: far more than a cache holds
CACHE = 256_000_000  # bytes: more than the cache of any GPU holds
MOST_INPUTS = 12
CLOCK = 2.0e9  # cycles per second of a fast GPU; a slower one sleeps longer
LONGEST_SLEEP = 1.0  # seconds
LEAST_MS = 8.0  # to be timed in one queue
MOST_CALLS = 30  # in one queue, which holds some hundred launches
SLOW = 0.5  # seconds of one call, from which on it is repeated little


def inputs_in_turn(size: int) -> int:
    """How many inputs take turns so that none stays in the cache; size: bytes of a call."""
    return max(2, min(MOST_INPUTS, math.ceil(CACHE / size)))


@dataclass(frozen=True)
class Queue:
    """How a call is timed: how many are queued, and the seconds that the GPU sleeps before them.

    host_us: until one call is handed over, a median.
    """

    work: Call
    calls: int
    sleep: float
    host_us: float
    slow: bool

    def timed(self) -> tuple[float, bool]:
        """Milliseconds of one call, and whether the host was ahead of the GPU all the time."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(int(self.sleep * CLOCK))  # type: ignore[no-untyped-call]
        begin.record()
        for number in range(self.calls):
            self.work(number)
        end.record()
        ahead = not begin.query()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / self.calls, ahead


def queue(work: Call) -> Queue:
    """Call it a few times, to see how long the host and the whole of it take."""
    work(0)
    torch.cuda.synchronize()
    host: list[float] = []
    seconds = 0.0
    while len(host) < 3 or (len(host) < 30 and seconds < 0.3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work(len(host))
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        whole = time.perf_counter() - start
        seconds += whole
        if whole > SLOW:
            break
    host_s = statistics.median(host)
    calls = 1 if whole > SLOW else max(3, min(MOST_CALLS, math.ceil(LEAST_MS / 1e3 / whole)))
    return Queue(work, calls, min(LONGEST_SLEEP, 1.5 * calls * host_s + 2e-3), host_s * 1e6, whole > SLOW)


def copy_rate(device: str, repeat: int = 10) -> float:
    """Bytes per second, read and written, of a copy from device to device."""
    source = torch.empty(COPY, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    watch = Stopwatch(device)
    for _ in range(repeat + 1):
        target.copy_(source)
        watch.mark()
    return 2 * COPY / (statistics.median(watch.laps()) / 1e3)


def graph_us(work: Call, calls: int, repeat: int = 20) -> float:
    """Microseconds of one call, of several with their inputs in turn as one CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for number in range(calls):
            work(number)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            work(number)
    watch = Stopwatch("cuda")
    for _ in range(repeat + 1):
        graph.replay()
        watch.mark()
    return statistics.median(watch.laps()) * 1e3 / calls
