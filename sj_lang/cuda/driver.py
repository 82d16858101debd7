"""Launches kernels on torch's stream by NVIDIA's driver, with their parameters in one piece."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

Extent = tuple[int, int]
#: a kernel with its grid and block, called with its parameters, 8 bytes each, in one piece
Run = Callable[[bytes], None]
#: a compiled kernel, called with grid, block and the kinds of its parameters as `struct` writes
#: them: "q" of a pointer or an integer, "d" of a float
Function = Callable[[Extent, Extent, str], Run]

NO_CONTEXT = 201  # what the driver says in a thread that has not used the device yet


class _Extra(ctypes.Structure):
    """CU_LAUNCH_PARAM_BUFFER_POINTER, the buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, its size, END."""

    _fields_ = (
        ("is_buffer", ctypes.c_void_p),
        ("buffer", ctypes.c_char_p),
        ("is_size", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
    )


@cache
def library() -> Any:
    """The driver's library. Raises OSError if there is none."""
    driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    number, pointer = ctypes.c_uint, ctypes.c_void_p
    driver.cuLaunchKernel.argtypes = (pointer, *(number,) * 7, pointer, pointer, ctypes.POINTER(_Extra))
    driver.cuCtxSetCurrent.argtypes = (pointer,)
    return driver


def prepared(function: int, index: int) -> Function:
    """What launches a CUfunction; index: the device, in whose context, the current one, it lies."""
    context = ctypes.c_void_p()
    check(library().cuCtxGetCurrent(ctypes.byref(context)))
    launch, set_current = library().cuLaunchKernel, library().cuCtxSetCurrent
    stream_of, current_device = torch._C._cuda_getCurrentRawStream, torch._C._cuda_getDevice

    def prepare(grid: Extent, block: Extent, kinds: str) -> Run:
        size = ctypes.c_size_t(8 * len(kinds))
        shape, size_at = (*grid, 1, *block, 1), ctypes.addressof(size)

        def run(packed: bytes, size: ctypes.c_size_t = size) -> None:  # size: kept for its address
            if current_device() != index:
                with torch.cuda.device(index):
                    return run(packed)
            extra = _Extra(1, packed, 2, size_at, None)
            code = launch(function, *shape, 0, stream_of(index), None, extra)
            if code == NO_CONTEXT:
                check(set_current(context))
                code = launch(function, *shape, 0, stream_of(index), None, extra)
            return check(code)

        return run

    return prepare


def check(code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        library().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"the CUDA driver says: {(text.value or b'unknown error').decode()} ({code})")


def version() -> int:
    """The version of CUDA that the driver supports: 12040 for 12.4."""
    number = ctypes.c_int()
    check(library().cuDriverGetVersion(ctypes.byref(number)))
    return number.value
