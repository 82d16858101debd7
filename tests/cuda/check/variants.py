"""The kernels that the tests on a GPU and the check ask for, compiled side by side before them.

Compiled one after the other, when a test first needs them, they take minutes. CuPy keeps what it
compiled on disk (CUPY_CACHE_DIR), so other processes can do it before.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.scan.cupy import log_scan

from sj_lang import cuda
from sj_lang.neuron import state_dtype

Variant = tuple[Path, tuple[tuple[str, int], ...]]  # a file and its macros

DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
#: steps and channels, so that each tile occurs
SIZES = (
    *((1, 4), (32, 4), (100, 4), (300, 4), (300, 3_000), (40, 33_000), (32, 8_192), (8, 65_536)),
    *((2_048, 3), (2_048, 16)),  # split, with and without bounds
)
NODES: list[tuple[Any, dict[str, Any]]] = [
    (DSN, {}),
    (DSN, {"n": 1, "surrogate_function": "ATan"}),
    (DSN, {"tau": 0.3}),
    (BPSN, {}),
    (BPSN, {"direction": "forward"}),
    (BPSN, {"spikes": "ternary", "offset": True}),
]


class Recorder:
    """An engine that notes what it is asked for and launches nothing."""

    def __init__(self) -> None:
        self.variants: dict[Variant, str] = {}  # and one of the kernels in it

    def why_not(self, index: int | None) -> str:
        return ""

    def function(self, path: Path, name: str, macros: tuple[tuple[str, int], ...], index: int) -> cuda.Function:
        self.variants[path, macros] = name
        return lambda grid, block, kinds: lambda packed: None


@contextmanager
def _recording() -> Iterator[Recorder]:
    with cuda.using("cpu", recorder := Recorder()):
        yield recorder


def variants() -> dict[Variant, str]:
    """Each variant of `NODES` and of the scan, by dtype and schedule, and one of its kernels."""
    with _recording() as recorder:
        for dtype in DTYPES:
            for steps, channels in SIZES:
                x = torch.zeros(steps, 1, channels, dtype=dtype, requires_grad=True)
                h_0 = torch.zeros(1, channels, dtype=state_dtype(x))
                log_scan(x, x, h_0)[0].sum().backward()
                for make, options in NODES:
                    node = make(channels=channels, backend="cupy", **options).to(h_0.dtype)
                    node.functional(x)[0].sum().backward()
    return recorder.variants


def compile_one(path: Path, name: str, macros: tuple[tuple[str, int], ...]) -> None:
    """On the first GPU, into CuPy's folder."""
    cuda.ENGINES["cuda"].function(path, name, macros, 0)


def compile_all(workers: int | None = None) -> int:
    """All variants, side by side; how many there are."""
    wanted = variants()
    cores = workers or os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(compile_one, path, name, macros) for (path, macros), name in wanted.items()]
        for job in jobs:
            job.result()
    return len(jobs)
