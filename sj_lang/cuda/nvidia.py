"""NVIDIA's GPUs: who compiles and loads a kernel there, and why none can run."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sj_lang.cuda import driver, nvrtc
from sj_lang.cuda.driver import Function
from sj_lang.cuda.text import OPTIONS, Macros, source
from sj_lang.errors import not_imported

#: kernels of CuPy, which unloads one with its last reference
_KEPT: list[Any] = []


class NVIDIA:
    """Compiles and launches on NVIDIA's GPUs."""

    def why_not(self, index: int | None) -> str:
        return _missing() or ("" if index is None else _unsupported(index))

    def function(self, path: Path, name: str, macros: Macros, index: int) -> Function:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{name}: a kernel is compiled and loaded when it is first called, which CUDA does not allow while a "
                "graph is captured: run forward and backward once, with the same shapes and dtypes, before the capture"
            )
        with torch.cuda.device(index):
            load = _loaded_by_nvrtc if _without_cupy() else _loaded_by_cupy
            return driver.prepared(load(path, name, macros, index), index)


def _loaded_by_cupy(path: Path, name: str, macros: Macros, index: int) -> int:
    """The CUfunction of a kernel. CuPy keeps what it compiled on disk."""
    import cupy

    options = (*OPTIONS, *(f"-D{key}={value}" for key, value in macros))
    kernel = cupy.RawModule(code=source(path), options=options, backend="nvrtc").get_function(name)
    kernel.compile()
    _KEPT.append(kernel)
    return int(kernel.kernel.ptr)


def _loaded_by_nvrtc(path: Path, name: str, macros: Macros, index: int) -> int:
    tool, (major, minor) = _compiler(), torch.cuda.get_device_capability(index)
    assert tool is not None, "`_without_cupy` has found one before"
    program = tool.compile(path, dict(macros), arch=f"sm_{major}{minor}")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    torch.cuda.synchronize(index)  # the driver has a context from here on
    driver.check(driver.library().cuModuleLoadData(ctypes.byref(module), program.binary))
    driver.check(driver.library().cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
    return function.value or 0


def _compiler() -> nvrtc.Compiler | None:
    """The newest NVRTC of NVIDIA's wheels that the driver accepts."""
    newest = driver.version() // 1000
    return next((tool for tool in reversed(nvrtc.compilers()) if tool.version[0] <= newest), None)


@cache
def _without_cupy() -> bool:
    """Whether CuPy cannot be imported, and torch's own NVRTC can do what it does."""
    if not not_imported("cupy", "CuPy", ""):
        return False
    try:
        return _compiler() is not None
    except OSError:  # no driver
        return False


@cache
def _missing() -> str:
    """What is missing: CuPy or torch's NVRTC, a driver, or a toolkit."""
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
    if _without_cupy():
        return ""
    if reason := not_imported("cupy", "CuPy", cure):
        return reason
    import cupy

    try:
        version = int(cupy.cuda.runtime.driverGetVersion())
        compiler = cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return f"CuPy {cupy.__version__} finds no driver or no NVRTC: {type(error).__name__}: {error}"
    if not version:
        return "finds no NVIDIA driver: install one; `nvidia-smi` shows it"
    if version // 1000 < compiler[0]:
        return (
            f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}, older than CuPy's toolkit, "
            f"{compiler[0]}.{compiler[1]}: update the driver or install 'sj-lang-neurons[cuda{version // 1000}]'"
        )
    return ""


@cache
def _unsupported(index: int) -> str:
    if _without_cupy():
        tool = _compiler()
        assert tool is not None
        toolkit = tool.version[0]
    else:
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
