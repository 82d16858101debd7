"""CUDA kernels from `.cu` files, compiled by NVRTC through CuPy, launched on torch's stream.

    cuda.launch(FILE, "forward", {"IO": 3}, grid, block, [x, out, 7], x.device)

A kernel is the body of an operator (`sj_lang.operators`) that allocates with torch, launches, and
does nothing else. A `.cu` file is plain CUDA C++: `#include "other.cuh"` takes in files beside it,
macros choose the variant, and parameters are pointers, `long long` and `double`. Each variant of a
file is compiled once per device. `ENGINES` says who compiles and launches on which type of device;
`sj_lang.testing.emulate` adds the CPU to it.

`launch` prepares each call anew. An operator that is called often keeps a `Plan` for each shape in
`PLANS`, and then a call packs the addresses of its tensors and no more.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sj_lang.cuda.driver import Extent as Extent
from sj_lang.cuda.driver import Function as Function
from sj_lang.cuda.driver import Run as Run
from sj_lang.cuda.nvidia import NVIDIA
from sj_lang.cuda.text import IO as IO
from sj_lang.cuda.text import OPTIONS as OPTIONS
from sj_lang.cuda.text import Macros as Macros
from sj_lang.cuda.text import macros_of as macros_of
from sj_lang.cuda.text import source as source

KernelArgument = Tensor | int | float | None
GRID_LIMIT = (2**31 - 1, 65_535)


class Engine(Hashable, Protocol):
    """Compiles and launches kernels on one type of device."""

    def why_not(self, index: int | None) -> str:
        """Why no kernel can run on the device of this index (None: on any); "" if it can."""
        ...

    def function(self, path: Path, name: str, macros: Macros, index: int) -> Function:
        """The compiled kernel."""
        ...


def launch(
    path: Path,
    name: str,
    macros: Mapping[str, int] | Macros,
    grid: Extent,
    block: Extent,
    arguments: Sequence[KernelArgument],
    device: torch.device,
) -> None:
    """Run kernel `name` of a file on the device's current stream, unless the grid is empty.

    Raises ValueError for tensors on several devices and for a grid that CUDA does not accept,
    RuntimeError if no kernel can run.
    """
    values: list[int | float] = []
    kinds = ""
    for argument in arguments:
        if isinstance(argument, Tensor):
            values.append(_address(name, argument, device))
        else:
            values.append(0 if argument is None else argument)
        kinds += "d" if isinstance(argument, float) else "q"
    _prepared(path, name, macros, grid, block, kinds, device)(struct.pack(kinds, *values))


class Plan:
    """A launch in which only the tensors change; the kernel takes them first, then all numbers.

    It is built like a call of `launch`, with the number of tensors, `pointers`, in their place. A
    call with the tensors, None for a null pointer, runs the kernel. It raises what `launch` raises.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        macros: Mapping[str, int] | Macros,
        grid: Extent,
        block: Extent,
        pointers: int,
        numbers: Sequence[int | float],
        device: torch.device,
    ) -> None:
        kinds = "".join("d" if isinstance(number, float) else "q" for number in numbers)
        self.name, self._device, self._numbers = name, device, struct.pack(kinds, *numbers)
        self._pack = struct.Struct(f"{pointers}q").pack
        self._run = _prepared(path, name, macros, grid, block, "q" * pointers + kinds, device)

    def __call__(self, *tensors: Tensor | None) -> None:
        device = self._device
        addresses = [
            0 if x is None else x.data_ptr() if x.device == device else _address(self.name, x, device) for x in tensors
        ]
        self._run(self._pack(*addresses) + self._numbers)


def _address(name: str, x: Tensor, device: torch.device) -> int:
    if x.device != device:
        raise ValueError(f"{name}: all tensors must be on one device, got {device} and {x.device}")
    return x.data_ptr()


def _prepared(
    path: Path,
    name: str,
    macros: Mapping[str, int] | Macros,
    grid: Extent,
    block: Extent,
    kinds: str,
    device: torch.device,
) -> Run:
    if 0 in grid:
        return lambda packed: None
    for size, limit in zip(grid, GRID_LIMIT, strict=True):
        if size > limit:
            raise ValueError(
                f"{name}: {size} blocks are more than a grid can have, which is {limit}; "
                "split the batch or the sequence"
            )
    engine = ENGINES.get(device.type)
    if engine is None:
        raise RuntimeError(f"{name}: {unavailable(device.type, None)}")
    variant = macros if isinstance(macros, tuple) else macros_of(**macros)
    return _function(engine, path, name, variant, _index(device))(grid, block, kinds)


@cache
def _function(engine: Engine, path: Path, name: str, macros: Macros, index: int) -> Function:
    if reason := engine.why_not(index):
        raise RuntimeError(f"{name}: {reason}")
    return engine.function(path, name, macros, index)


def _index(device: torch.device) -> int:
    index = device.index
    if index is None and device.type == "cuda":
        return torch.cuda.current_device()
    return index or 0


def why_not(x: Tensor | None) -> str:
    """`Kernel.why_not` of all CUDA kernels."""
    if x is None:
        return str(unavailable("cpu" if "cpu" in ENGINES else "cuda", None))
    like_x = x.dtype, x.device
    if like_x in _RUN and not torch.compiler.is_compiling():
        return ""
    if x.dtype not in IO:
        return f"takes {', '.join(str(d).removeprefix('torch.') for d in IO)}, got {x.dtype}"
    reason = str(unavailable(x.device.type, _index(x.device)))
    if not (reason or torch.compiler.is_compiling()):
        _RUN.add(like_x)
    return reason


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable(kind: str, index: int | None) -> str:
    """Why no kernel can run on a device of this type and index; "" if one can."""
    if kind not in ENGINES:
        return f"needs a CUDA tensor, got one on {kind}"
    return ENGINES[kind].why_not(index)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def no_device() -> str:
    """Why there is nothing to run kernels on; "" if there is."""
    if "cpu" in ENGINES or torch.cuda.is_available():
        return ""
    return "needs a CUDA device, and torch sees none"


ENGINES: dict[str, Engine] = {"cuda": NVIDIA()}
#: each `Plan` by what an operator finds it with, its name first
PLANS: dict[tuple[Hashable, ...], Any] = {}
MOST_PLANS = 4_096  # of a training on texts of all lengths
#: the dtypes and devices with which kernels can run
_RUN: set[tuple[torch.dtype, torch.device]] = set()


def remember(key: tuple[Hashable, ...], plan: Any) -> None:
    """Keep it in `PLANS`, which forgets all others before it grows without end."""
    if len(PLANS) >= MOST_PLANS:
        PLANS.clear()
    PLANS[key] = plan


@contextmanager
def using(kind: str, engine: Engine) -> Iterator[None]:
    """Inside, this engine runs kernels on this type of device."""
    before = ENGINES.get(kind)
    ENGINES[kind] = engine
    _forget()
    try:
        yield
    finally:
        del ENGINES[kind]
        if before is not None:
            ENGINES[kind] = before
        _forget()


def _forget() -> None:
    """What was learned of the engines that were there."""
    PLANS.clear()
    _RUN.clear()
