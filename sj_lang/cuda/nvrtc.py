"""Compile `.cu` files for GPUs that are not there: NVRTC of NVIDIA's wheels, without a driver.

for compiler in compilers():  # installed: nvidia-cuda-nvrtc-cu12 is 12, nvidia-cuda-nvrtc is 13
    program = compiler.compile(FILE, {"IO": 3}, arch="sm_90")
    assert not program.complaints
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sj_lang.cuda.text import OPTIONS, source

WHEELS = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc")
#: lines that a log may have: what `--ptxas-options=-v` asks for, and the warning that a later CUDA
#: drops an old architecture
EXPECTED = re.compile(
    r"^\s*$|^ptxas info\s+: "
    r"|^ptxas\s+\.\s+\d+ bytes stack frame, \d+ bytes spill stores, \d+ bytes spill loads$"
    r"|^nvrtc: warning: Architectures prior to '<compute/sm>_75' are deprecated"
)
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for.*?(?P<spills>\d+) bytes spill stores.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


class CompileError(Exception):
    """NVRTC refused; the message is its log."""


@dataclass(frozen=True)
class Program:
    """log: all that the compiler said. binary: for the GPU."""

    log: str
    binary: bytes

    @property
    def size(self) -> int:
        """Bytes of the binary."""
        return len(self.binary)

    @property
    def complaints(self) -> list[str]:
        """The lines of the log that are not in `EXPECTED`: every warning."""
        return [line for line in self.log.strip("\0").splitlines() if not EXPECTED.match(line)]

    @property
    def registers(self) -> dict[str, int]:
        """Registers of a thread, by kernel."""
        return {match["name"]: int(match["registers"]) for match in KERNEL.finditer(self.log)}

    @property
    def spills(self) -> dict[str, int]:
        """Bytes of registers that went to memory, by kernel."""
        return {match["name"]: int(match["spills"]) for match in KERNEL.finditer(self.log)}


@dataclass(frozen=True)
class Compiler:
    """One NVRTC library."""

    path: Path

    @cached_property
    def library(self) -> ctypes.CDLL:
        for part in self.path.parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(part))  # that of CUDA 13.0 does not look beside itself
        return ctypes.CDLL(str(self.path))

    @property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    @property
    def archs(self) -> list[int]:
        """Compute capabilities, 90 for 9.0."""
        count = ctypes.c_int()
        self._check(self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        capabilities = (ctypes.c_int * count.value)()
        self._check(self.library.nvrtcGetSupportedArchs(capabilities))
        return sorted(capabilities)

    def compile(self, path: Path, macros: Mapping[str, int], *, arch: str) -> Program:
        """Compile as the kernels are. Raises CompileError."""
        with ThreadPoolExecutor(1) as another:  # NVRTC 12.4 leaves its thread in the locale "C"
            return another.submit(self._compile, path, macros, arch).result()

    def _compile(self, path: Path, macros: Mapping[str, int], arch: str) -> Program:
        defines = [f"-D{key}={value}" for key, value in macros.items()]
        options = [*OPTIONS, f"--gpu-architecture={arch}", "--ptxas-options=-v", *defines]
        program = ctypes.c_void_p()
        text = source(path).encode()
        self._check(self.library.nvrtcCreateProgram(ctypes.byref(program), text, path.name.encode(), 0, None, None))
        try:
            failed = self.library.nvrtcCompileProgram(program, len(options), _strings(options))
            log = self._read(program, "ProgramLog").decode(errors="replace")
            if failed:
                raise CompileError(f"{path} {arch} {' '.join(defines)}:\n{log}")
            return Program(log, self._read(program, "CUBIN"))
        finally:
            self._check(self.library.nvrtcDestroyProgram(ctypes.byref(program)))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self.library, f"nvrtcGet{what}")(program, text))
        return text.raw

    def _check(self, code: int) -> None:
        if code:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise CompileError(self.library.nvrtcGetErrorString(code).decode())


def _strings(words: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(words))(*(word.encode() for word in words))


def compilers() -> list[Compiler]:
    """The compilers of NVIDIA's wheels that are installed here, by version."""
    spec = importlib.util.find_spec("nvidia")
    places = () if spec is None else spec.submodule_search_locations or ()
    libraries = {lib.resolve() for place in places for lib in Path(place).glob("*/lib/libnvrtc.so.*[0-9]")}
    return sorted((Compiler(path) for path in libraries), key=lambda compiler: compiler.version)
