"""CUDA kernels from `.cu` files, compiled by NVRTC through CuPy, launched on torch's stream.

    cuda.launch(FILE, "forward", {"IO": 3}, grid, block, [x, out, 7], x.device)

A kernel is the body of an operator (`sj_lang.operators`) that allocates with torch, launches, and
does nothing else. A `.cu` file is plain CUDA C++: `#include "other.cuh"` takes in files beside it,
macros choose the variant, and parameters are pointers, `long long` and `double`. Each variant of a
file is compiled once per device. `ENGINES` says who compiles and launches on which type of device;
`sj_lang.testing.emulate` adds the CPU to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sj_lang.errors import not_imported

KernelArgument = Tensor | int | float | None
Extent = tuple[int, int]
#: the macros of a variant, in the order of their names: they are hashed in each launch
Macros = tuple[tuple[str, int], ...]
Launch = Callable[[Extent, Extent, Sequence[int | float]], None]

#: the macro IO of a kernel
IO = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
GRID_LIMIT = (2**31 - 1, 65_535)
#: -ftz: subnormal float is 0; CuPy adds it, so that other compilers and the emulator must see it
OPTIONS = ("-std=c++17", "--restrict", "-ftz=true")
INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


class Engine(Hashable, Protocol):
    """Compiles and launches kernels on one type of device."""

    def why_not(self, index: int | None) -> str:
        """Why no kernel can run on the device of this index (None: on any); "" if it can."""
        ...

    def function(self, path: Path, name: str, macros: Macros, index: int) -> Launch:
        """The compiled kernel; called with grid, block and arguments."""
        ...


def source(path: Path) -> str:
    """The text of a `.cu` file with the files that it includes in their place, each once."""
    return _inline(path, set())


def _inline(path: Path, seen: set[Path]) -> str:
    def replace(match: re.Match[str]) -> str:
        other = (path.parent / match[1]).resolve()
        if other in seen:
            return ""
        seen.add(other)
        return _inline(other, seen)

    return INCLUDE.sub(replace, path.read_text(encoding="utf-8"))


def macros_of(**values: int) -> Macros:
    """The macros of a variant, as `launch` takes them. Make them once, not for each launch."""
    return tuple(sorted(values.items()))


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
    for argument in arguments:
        kind = type(argument)
        if kind is int or kind is float:
            values.append(argument)  # type: ignore[arg-type]
        elif isinstance(argument, Tensor):
            if argument.device != device:
                raise ValueError(f"{name}: all tensors must be on one device, got {device} and {argument.device}")
            values.append(argument.data_ptr())
        else:
            values.append(0 if argument is None else argument)
    if 0 in grid:
        return
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
    _function(engine, path, name, variant, _index(device))(grid, block, values)


@cache
def _function(engine: Engine, path: Path, name: str, macros: Macros, index: int) -> Launch:
    if reason := engine.why_not(index):
        raise RuntimeError(f"{name}: {reason}")
    return engine.function(path, name, macros, index)


def _index(device: torch.device) -> int:
    if device.type == "cuda" and device.index is None:
        return torch.cuda.current_device()
    return device.index or 0


def why_not(x: Tensor | None) -> str:
    """`Kernel.why_not` of all CUDA kernels."""
    if x is None:
        return str(unavailable("cpu" if "cpu" in ENGINES else "cuda", None))
    if x.dtype not in IO:
        return f"takes {', '.join(str(d).removeprefix('torch.') for d in IO)}, got {x.dtype}"
    return str(unavailable(x.device.type, _index(x.device)))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable(kind: str, index: int | None) -> str:
    """Why no kernel can run on a device of this type and index; "" if one can."""
    if kind not in ENGINES:
        return f"needs a CUDA tensor, got one on {kind}"
    return ENGINES[kind].why_not(index)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def no_device() -> str:
    """Why there is nothing to run kernels on; "" if there is."""
    if torch.cuda.is_available() or "cpu" in ENGINES:
        return ""
    return "needs a CUDA device, and torch sees none"


class CuPy:
    """Compiles and launches on NVIDIA's GPUs."""

    def why_not(self, index: int | None) -> str:
        return _missing() or ("" if index is None else _unsupported(index))

    def function(self, path: Path, name: str, macros: Macros, index: int) -> Launch:
        import cupy

        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{name}: a kernel is compiled and loaded when it is first called, which CUDA does not allow while a "
                "graph is captured: run forward and backward once, with the same shapes and dtypes, before the capture"
            )
        options = (*OPTIONS, *(f"-D{key}={value}" for key, value in macros))
        with torch.cuda.device(index):
            kernel = cupy.RawModule(code=source(path), options=options, backend="nvrtc").get_function(name)
            kernel.compile()
        alone = torch.cuda.device_count() == 1

        def run(grid: Extent, block: Extent, arguments: Sequence[int | float]) -> None:
            pointer = torch.cuda.current_stream(index).cuda_stream
            if alone:  # no other device to come from
                with _stream(pointer, index):
                    kernel(grid, block, tuple(arguments))
                return
            with torch.cuda.device(index), cupy.cuda.Device(index), _stream(pointer, index):
                kernel(grid, block, tuple(arguments))  # torch restores the device that CuPy changes

        return run


@lru_cache(maxsize=256)
def _stream(pointer: int, index: int) -> Any:
    """CuPy's view of a stream of torch's, which CuPy does not own: any stream with this pointer."""
    import cupy

    if not hasattr(cupy.cuda.Stream, "from_external"):  # before CuPy 14
        return cupy.cuda.ExternalStream(pointer, index)

    class Stream:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, pointer

    return cupy.cuda.Stream.from_external(Stream())


@cache
def _missing() -> str:
    """What is missing: CuPy, a driver, or a toolkit."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return (
            f"needs a CUDA device, and torch (built for CUDA {built}) sees none: no GPU, or no driver or one older "
            "than that; compare `nvidia-smi`"
            if built
            else "needs a CUDA device, and this torch is built for the CPU only"
        )
    major = (torch.version.cuda or "13").split(".")[0]
    cure = f"pip install 'sj-lang-neurons[cuda{major}]' (cuda12 or cuda13, as the driver's CUDA is)"
    if reason := not_imported("cupy", "CuPy", cure):
        return reason
    import cupy

    try:
        driver = int(cupy.cuda.runtime.driverGetVersion())
        compiler = cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return f"CuPy {cupy.__version__} finds no driver or no NVRTC: {type(error).__name__}: {error}"
    if not driver:
        return "finds no NVIDIA driver: install one; `nvidia-smi` shows it"
    if driver // 1000 < compiler[0]:
        return (
            f"the driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, older than CuPy's toolkit, "
            f"{compiler[0]}.{compiler[1]}: update the driver or install 'sj-lang-neurons[cuda{driver // 1000}]'"
        )
    return ""


@cache
def _unsupported(index: int) -> str:
    import cupy

    toolkit = cupy.cuda.nvrtc.getVersion()[0]
    least = (7, 5) if toolkit >= 13 else (7, 0)
    capability = torch.cuda.get_device_capability(index)
    if capability >= least:
        return ""
    cure = ": install 'sj-lang-neurons[cuda12]'" if capability >= (7, 0) else ""
    return (
        f"needs compute capability {least[0]}.{least[1]} with CUDA {toolkit}, "
        f"{torch.cuda.get_device_name(index)} has {capability[0]}.{capability[1]}{cure}"
    )


ENGINES: dict[str, Engine] = {"cuda": CuPy()}
