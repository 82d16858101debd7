"""Every kernel compiles for every GPU: through NVRTC, which needs no driver, of the versions that
are installed.

By default each file and each dtype, for architectures in turn; `-m slow`: each file for all
architectures and in all variants, in float32; the other dtypes take turns. Prints registers and
spills with `-s`.
"""

import locale
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.scan import cupy as scan
from sj_lang_neurons.scan.cuda_layout import Tile

from sj_lang import cuda
from sj_lang.cuda.nvrtc import WHEELS, CompileError, Compiler, compilers

pytestmark = pytest.mark.any_line

OLDEST = {12: 70, 13: 75}  # compute capability that sj_lang takes, by CUDA's version
NEWEST = {12: 100, 13: 999}
TILES = [Tile(32, 1, 8), Tile(32, 16, 8), Tile(32, 4, 8), Tile(16, 32, 8), Tile(8, 32, 8)]
SPLIT = [*TILES, Tile(8, 32, 16, split=True)]
#: few runs without bounds, as a thread of two columns needs many registers
TILES_OF = {
    bpsn.FILE: TILES,
    dsn.FILE: SPLIT,
    cupy_fast.FILE: [TILES[0], TILES[2], cupy_fast.SPLIT],
    scan.FILE: SPLIT,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in cuda.IO}
FOUND = {compiler.version[0]: compiler for compiler in compilers()}

#: bytes, of kernels that need more than the 128 registers that 512 threads of a multiprocessor
#: leave to each; the most is that of compute capabilities 7.0 and 7.5, of DSN in float16
SPILLS = {"bpsn_backward": 256, "dsn_fast_backward, split": 116}

DSN = {"TAPS": 4, "LOGIT": 0, "POWER": 4, "FIRE": 1, "NEXT": 0}
BPSN = {"PAST": 1, "FUTURE": 1, "LATERAL": 1, "NORMALISED": 1, "SOFTPLUS": 1, "FIRE": 2}
GRID = {**BPSN, "LATERAL": 0, "SOFTPLUS": 0, "FIRE": 1}
#: file -> variants, the first one as the node is built by default
FILES: dict[Path, list[dict[str, int]]] = {
    scan.FILE: [{}],
    dsn.FILE: [
        DSN,
        {**DSN, "TAPS": 0, "LOGIT": 1, "POWER": 0},
        {**DSN, "TAPS": 1, "POWER": 1, "FIRE": 0},
        {**DSN, "TAPS": dsn.MOST_TAPS, "POWER": 64},
        {**DSN, "NEXT": 1},
        {**DSN, "TAPS": dsn.MOST_TAPS, "NEXT": 1},
        *({**DSN, "FIRE": kind} for kind in range(2, 10)),
    ],
    cupy_fast.FILE: [
        DSN,
        {**DSN, "TAPS": 1, "POWER": 0},
        {**DSN, "FIRE": 2},
    ],
    bpsn.FILE: [
        BPSN,
        {**BPSN, "FUTURE": 0},
        {**BPSN, "PAST": 0, "LATERAL": 0},
        {**BPSN, "LATERAL": 0, "NORMALISED": 0},
        {**BPSN, "LATERAL": 0, "FIRE": 0},
        GRID,
        {**GRID, "FUTURE": 0},
        *({**BPSN, "FIRE": kind} for kind in range(3, 10)),
    ],
}


def archs(compiler: Compiler) -> list[int]:
    major = compiler.version[0]
    return [arch for arch in compiler.archs if OLDEST[major] <= arch <= NEWEST[major]]


def targets() -> Iterator[tuple[Compiler, int]]:
    """Version and architecture, in turn, oldest and newest first."""
    each = [(c, arch) for c in FOUND.values() for arch in sorted(archs(c), key=lambda a, c=c: -abs(a - 85))]
    return cycle(sorted(each, key=lambda pair: -abs(pair[1] - 85)) if each else [])


def compiles(compiler: Compiler, arch: int, path: Path, macros: dict[str, int]) -> None:
    if macros.get("NEXT"):
        macros = {**macros, "SPLIT": 0}
    program = compiler.compile(path, macros, arch=f"sm_{arch}")
    assert program.complaints == []
    assert program.size > 1000
    assert program.registers
    for name, registers in program.registers.items():
        spilled = program.spills[name]
        print(f"\n{compiler.version} sm_{arch} {macros} {name}: {registers} registers, {spilled} bytes spilled")
        assert registers <= 255
        if macros["IO"] != cuda.IO[torch.float64]:  # doubles are there to be exact, not fast
            assert spilled <= SPILLS.get(f"{name}, split" if macros.get("SPLIT") else name, 64), name


def tiles_of(path: Path, dtype: torch.dtype) -> Iterator[Tile]:
    if path == cupy_fast.FILE and dtype.itemsize > 2:
        pytest.skip("it is for half precision")
    return cycle(TILES_OF[path])


def its_turn(number: int, dtype: torch.dtype) -> bool:
    """Whether to compile this one of several for the dtype: all for float32, half for the others.

    Each gets one of half precision, and every second one float64 too.
    """
    return dtype == torch.float32 or number % 2 == (dtype == torch.bfloat16)


def need(major: int) -> Compiler:
    if major not in FOUND:
        pytest.skip(f"NVRTC {major} is not installed: pip install {WHEELS[major - 12]}")
    return FOUND[major]


@pytest.mark.skipif(not FOUND, reason=f"NVRTC is not installed: pip install {' '.join(WHEELS)}")
def test_each_file_and_each_dtype() -> None:
    before = locale.getencoding()
    turns = zip(cycle(FILES.items()), DTYPES.values(), targets(), strict=False)
    for (path, variants), dtype, (compiler, arch) in turns:
        compiles(compiler, arch, path, {"IO": cuda.IO[dtype], **variants[0], **TILES_OF[path][1].macros})
        if path != bpsn.FILE:
            compiles(compiler, arch, path, {"IO": cuda.IO[dtype], **variants[0], **TILES_OF[path][-1].macros})
    assert locale.getencoding() == before


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("major", OLDEST)
def test_all_architectures(major: int, path: Path, dtype: torch.dtype) -> None:
    compiler = need(major)
    assert archs(compiler)[0] == OLDEST[major]
    tiles = tiles_of(path, dtype)
    for arch in [arch for number, arch in enumerate(archs(compiler)) if its_turn(number, dtype)]:
        compiles(compiler, arch, path, {"IO": cuda.IO[dtype], **FILES[path][0], **next(tiles).macros})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("major", OLDEST)
def test_all_variants(major: int, path: Path, dtype: torch.dtype) -> None:
    """Each variant with each dtype by one version at least; those of a file in all tiles."""
    compiler, tiles = need(major), tiles_of(path, dtype)
    for variant in [variant for number, variant in enumerate(FILES[path]) if its_turn(number + major, dtype)]:
        compiles(compiler, 90, path, {"IO": cuda.IO[dtype], **variant, **next(tiles).macros})


@pytest.mark.skipif(not FOUND, reason="NVRTC is not installed")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('extern "C" __global__ void f(float *x) { int unused; x[0] = 1; }', "never referenced"),
        ('extern "C" __global__ void f(float *x) { x[0] = "a"; }', "cannot be assigned"),
    ],
)
def test_warnings_and_errors_are_seen(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "kernel.cu"
    path.write_text(text)
    compiler: Any = next(iter(FOUND.values()))
    try:
        found = "\n".join(compiler.compile(path, {}, arch="sm_80").complaints)
    except CompileError as error:
        found = str(error)
    assert says in found
