"""Instructions that the main loops of the kernels need for an element, compiled for a GPU and
counted.

Copying an H200's memory leaves about 75 instructions an element for forward and backward together:
what needs more is bound by them. Needs NVRTC, and a disassembler, which Triton's package brings.
Prints figures with `-s`.
"""

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.scan import cupy as scan
from sj_lang_neurons.scan.cuda_layout import Tile, schedule

from sj_lang import cuda
from sj_lang.cuda.nvrtc import compilers

INSTRUCTION = re.compile(r"^\s*/\*(?P<at>[0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+ )?(?P<text>(?P<name>\w+).*?);", re.MULTILINE)
JUMP = re.compile(r"^BRA.*?0x(?P<to>[0-9a-f]+)")
DOUBLE = {"DSETP", "DADD", "DMUL", "DFMA", "F2F"}  # slow where parameters are double

DSN = {"TAPS": 4, "LOGIT": 0, "POWER": 4, "FIRE": 1, "NEXT": 0}
BPSN = {"PAST": 1, "FUTURE": 1, "LATERAL": 1, "NORMALISED": 1, "SOFTPLUS": 1, "FIRE": 2}
SCHEDULE = {"COLUMNS": 32, "RUNS": 4, "STEPS": 8}


def disassembler() -> str | None:
    spec = importlib.util.find_spec("triton")
    beside = Path(spec.origin).parent / "backends/nvidia/bin" if spec and spec.origin else Path()
    return shutil.which("cuobjdump", path=str(beside)) or shutil.which("cuobjdump")


pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(
        not compilers() or not disassembler(), reason="NVRTC or cuobjdump is not installed: pip install triton"
    ),
]


@dataclass(frozen=True)
class Loop:
    """What a kernel does for each tile, or all of it if it has no loop over tiles."""

    instructions: int
    names: Counter[str]
    spills: int


def loops(path: Path, macros: Mapping[str, int], folder: Path, *, inner: bool = False) -> dict[str, Loop]:
    """The longest loop of each kernel in bfloat16 on compute capability 9.0; with `inner`,
    the longest inside it.
    """
    program = compilers()[-1].compile(path, {"IO": 3, **SCHEDULE, **macros}, arch="sm_90")
    file = folder / "kernel.cubin"
    file.write_bytes(program.binary)
    command = [str(disassembler()), "-sass", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for part in text.split("Function : ")[1:]:
        name, body = part.split(None, 1)
        instructions = [(int(m["at"], 16), m["name"], JUMP.match(m["text"])) for m in INSTRUCTION.finditer(body)]
        back = [(int(jump["to"], 16), at) for at, _, jump in instructions if jump and int(jump["to"], 16) < at]
        if not back:
            continue
        by_length = sorted(back, key=lambda ends: ends[0] - ends[1])
        first, last = outer = by_length[0]
        if inner:
            first, last = next(ends for ends in by_length if outer[0] < ends[0] and ends[1] < outer[1])
        names = Counter(operation for at, operation, _ in instructions if first <= at <= last)
        found[name] = Loop(names.total(), names, program.spills[name])
    return found


def per_element(loop: Loop, columns: int, steps: int = SCHEDULE["STEPS"]) -> float:
    return loop.instructions / (columns * steps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dsn_without_bounds_comes_near_to_the_memorys_speed(dtype: torch.dtype, tmp_path: Path) -> None:
    found = loops(cupy_fast.FILE, {**DSN, "IO": cuda.IO[dtype]}, tmp_path)
    forward, backward = found["dsn_fast"], found["dsn_fast_backward"]
    counts = per_element(forward, 2), per_element(backward, 2)
    print(f"\nDSN without bounds: {counts[0]:.1f} + {counts[1]:.1f}")
    assert counts[0] <= 35
    assert counts[1] <= 62
    for loop in (forward, backward):
        assert loop.spills == 0
        assert not DOUBLE & set(loop.names)


@pytest.mark.parametrize(
    ("path", "macros", "most"),
    [(dsn.FILE, DSN, {"dsn": 59, "dsn_backward": 88}), (scan.FILE, {}, {"log_scan": 54, "log_scan_backward": 72})],
    ids=["dsn", "scan"],
)
def test_kernels_with_bounds(path: Path, macros: dict[str, int], most: dict[str, float], tmp_path: Path) -> None:
    found = loops(path, macros, tmp_path)
    for name, limit in most.items():
        print(f"\n{name}: {per_element(found[name], 1):.1f}")
        assert per_element(found[name], 1) <= limit
        assert found[name].spills == 0


@pytest.mark.parametrize(
    ("path", "macros", "tile", "columns", "most"),
    [
        (cupy_fast.FILE, DSN, cupy_fast.SPLIT, 2, {"dsn_fast": 50, "dsn_fast_backward": 111}),
        (dsn.FILE, DSN, schedule(1_024, 16_384), 1, {"dsn": 71, "dsn_backward": 128}),
        (scan.FILE, {}, schedule(1_024, 16_384), 1, {"log_scan": 61, "log_scan_backward": 92}),
    ],
    ids=["without bounds", "dsn", "scan"],
)
def test_split_sequences(
    path: Path, macros: dict[str, int], tile: Tile, columns: int, most: dict[str, float], tmp_path: Path
) -> None:
    """As they stand in the text: loops over runs once, and what only the first or last run does."""
    found = loops(path, {**macros, **tile.macros}, tmp_path)
    for name, limit in most.items():
        print(f"\n{name}: {per_element(found[name], columns, tile.steps):.1f}")
        assert per_element(found[name], columns, tile.steps) <= limit
        assert found[name].spills == 0
        assert not DOUBLE & set(found[name].names)


@pytest.mark.parametrize("runs", [4, 16])
def test_bpsn(runs: int, tmp_path: Path) -> None:
    """The loop over sequences of one length, inside that over stretches of such. With 16 runs what
    one of them does for all is counted as if each did it.
    """
    found = loops(bpsn.FILE, {**BPSN, "RUNS": runs}, tmp_path, inner=True)
    counts = [per_element(found[name], 1) for name in ("bpsn", "bpsn_backward")]
    print(f"\nBPSN, {runs} runs: {counts[0]:.1f} + {counts[1]:.1f}")
    assert sum(counts) <= 150
    assert all(found[name].spills == 0 for name in ("bpsn", "bpsn_backward"))
