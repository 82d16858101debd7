"""Kernels compiled by numba for the CPU: whether they can run, and columns shared by threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang.errors import not_imported

LINE = 16  # columns: a cache line of float32
SHARE = 1 << 14  # elements that are worth another thread


def why_not(x: Tensor | None) -> str:
    """`Kernel.why_not` of all numba kernels."""
    if x is not None and x.device.type != "cpu":
        return f"runs on the CPU, got a tensor on {x.device.type}"
    return str(missing())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing() -> str:
    """Why numba cannot be used; "" if it can."""
    return _missing()


@cache
def _missing() -> str:
    return not_imported("numba", "numba", "pip install numba")


def array(x: Tensor | None) -> Any:
    """The memory of a contiguous tensor, for numba; for None (no lengths) an empty array."""
    return (torch.empty(0, dtype=torch.int64) if x is None else x.detach()).numpy()


def over_columns(run: Callable[..., None], arguments: tuple[Any, ...], columns: int, steps: int) -> None:
    """`run(*arguments, first, last)` for all columns, in as many of torch's threads as it is worth.

    run: compiled with nogil; what it writes for a column must not depend on how columns are cut.
    """
    threads = min(torch.get_num_threads(), columns * steps // SHARE, -(-columns // LINE))
    if threads <= 1:
        run(*arguments, 0, columns)
        return
    size = -(-columns // threads // LINE) * LINE
    cuts = [(first, min(first + size, columns)) for first in range(0, columns, size)]
    team = _team()
    if team is None:
        list(_pool(os.getpid(), torch.get_num_threads()).map(lambda cut: run(*arguments, *cut), cuts))
    else:
        team(lambda number: run(*arguments, *cuts[number]), len(cuts))


@cache
def _team() -> Callable[[Callable[[int], None], int], None] | None:
    """`together(work, threads)`, which calls work(0), work(1), ... in torch's own OpenMP threads.

    They wait busily for torch's next operation: other threads would share the cores with them. None
    if torch's library is not GNU's.
    """
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not libraries:
        return None
    library = ctypes.CDLL(str(libraries[0]))  # loaded already, by torch
    parallel, number = library.GOMP_parallel, library.omp_get_thread_num
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel.argtypes = [task, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def together(work: Callable[[int], None], threads: int) -> None:
        done, errors = set(), []

        def one(_: object) -> None:
            mine = number()
            try:
                work(mine)
                done.add(mine)
            except BaseException as error:  # raised below: here it would be printed and lost
                errors.append(error)

        parallel(task(one), None, threads, 0)
        if errors:
            raise errors[0]
        for left in set(range(threads)) - done:  # OpenMP may give fewer threads than asked for
            work(left)

    return together


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One for each process: a fork has none of its parent's threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="sj_lang")
