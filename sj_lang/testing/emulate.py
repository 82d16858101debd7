"""CUDA kernels without a GPU: a `.cu` text, unchanged, compiled as C++ and run on CPU tensors.

    with emulated():
        ...                          # backend "cupy" runs on the CPU

`cuda_on_cpu.h` stands in for CUDA's names. Slow, and exact: what it tests is the text of the
kernel, its indices, its barriers and its arithmetic. Subnormal floats are 0, as `cuda.OPTIONS` asks
of NVRTC. With `rough=True` fast functions err and products are fused into sums, as on a GPU. Needs
a C++ compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from sj_lang import cuda
from sj_lang.cuda import Extent, Function, Run

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = ("-std=c++17", "-Og", "-shared", "-fPIC", "-w", f"-DFLUSH={int('-ftz=true' in cuda.OPTIONS)}")
EXACT = ("-ffp-contract=off", "-DROUGH=0")
ROUGH = ("-O2", "-ffp-contract=fast", "-march=native", "-DROUGH=1")
KERNELS = re.compile(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(")
FAILED = {
    1: "some threads of a block returned while others waited at a barrier",
    2: "all blocks that have started wait for others",
}
ORDERS = {"first to last": 0, "last to first": 1, "shuffled": 2}


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


@contextmanager
def emulated(order: str = "first to last", *, rough: bool = False) -> Iterator[None]:
    """Inside, CUDA kernels run on CPU tensors.

    order: of blocks, and of a block's threads between barriers; "shuffled" runs some blocks at a
        time. rough: with the errors of a GPU's fast functions.
    """
    assert "cpu" not in cuda.ENGINES, "emulated() inside emulated()"
    emulator = _EMULATORS[rough]
    emulator.order = ORDERS[order]
    try:
        with cuda.using("cpu", emulator):
            torch._dynamo.reset()  # it takes for constant what it saw of the engines
            yield
    finally:
        torch._dynamo.reset()


class Emulator:
    """The engine of `emulated`. order: one of `ORDERS`, of all kernels."""

    order = 0

    def __init__(self, rough: bool) -> None:
        self.rough = rough

    def why_not(self, index: int | None) -> str:
        return "" if compiler() else "needs a C++ compiler to be emulated"

    def function(self, path: Path, name: str, macros: tuple[tuple[str, int], ...], index: int) -> Function:
        # PyDLL: one launch at a time
        library = ctypes.PyDLL(str(build(path, macros, rough=self.rough)))
        parameters, enter = library[f"parameters_of_{name}"], library[f"run_{name}"]
        parameters.restype = ctypes.c_char_p
        expected = parameters().decode().replace("p", "i")  # a pointer is its address

        def prepare(grid: Extent, block: Extent, kinds: str) -> Run:
            if (arguments := kinds.replace("q", "i")) != expected:
                raise TypeError(f"{name}: parameters are {expected} (i integer, d double), arguments {arguments}")
            shape = (ctypes.c_uint * 4)(*grid, *block)

            def run(packed: bytes) -> None:
                buffer = ctypes.create_string_buffer(packed, len(packed))
                start = ctypes.addressof(buffer)
                values = (ctypes.c_void_p * len(kinds))(*range(start, start + len(packed), 8))
                if failed := enter(shape, self.order, values):
                    raise RuntimeError(f"{name}: {FAILED[failed]}")

            return run

        return prepare


#: they keep what they compiled
_EMULATORS = {rough: Emulator(rough) for rough in (False, True)}
_BUILDING = threading.Lock()


def build(path: Path, macros: tuple[tuple[str, int], ...], *, rough: bool = False) -> Path:
    """The shared library of one variant of a file, with all its kernels; built once per process."""
    tool = compiler()
    if tool is None:
        raise RuntimeError("no C++ compiler found: c++, g++ or clang++")
    text = cuda.source(path)
    entries = "\n".join(f"CUDA_ON_CPU({name})" for name in KERNELS.findall(text))
    text = f'#include "{HEADER}"\n{text}\n{entries}\n'
    defines = [*(ROUGH if rough else EXACT), *(f"-D{key}={value}" for key, value in macros)]
    key = hashlib.sha256("\n".join([HEADER.read_text(encoding="utf-8"), text, *defines]).encode()).hexdigest()[:24]
    library = Path(_folder().name) / f"{path.parent.name}_{key}.so"
    with _BUILDING:
        if not library.exists():
            unfinished = library.with_suffix(f".{os.getpid()}")  # forks share the folder
            command = [tool, *FLAGS, *defines, "-x", "c++", "-", "-o", str(unfinished)]
            done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{path.name} does not compile as C++:\n{done.stderr}")
            unfinished.replace(library)
    return library


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sj_lang_kernels_")
