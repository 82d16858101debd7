"""NVIDIA's compute-sanitizer over the kernels: its tools, its syntax, and what runs under it."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SCRIPT = """
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.bpsn import cupy
from sj_lang_neurons.scan.cupy import log_scan
cupy.LEAST_BLOCKS = 0  # a block takes several sequences
for steps in (1, 9, 70, 300, 2_100):  # the last is split
    mask = torch.arange(steps, device="cuda")[:, None] < torch.tensor([steps, 0, steps // 2 + 1], device="cuda")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(steps, 3, 6, device="cuda").to(dtype).requires_grad_()
        for node in (DSN(channels=6, backend="cupy"), BPSN(channels=6, backend="cupy")):
            for valid in (mask, None):
                node.cuda().functional(x, mask=valid)[0].float().sum().backward()
        log_scan(-x.exp(), x, torch.zeros(3, 6, device="cuda"))[0].float().sum().backward()
torch.cuda.synchronize()
"""


def command(tool: str, script: Path) -> list[str]:
    """The filter is key=value; `regex:` is ncu's. initcheck without one: it must see who writes."""
    filtered = [] if tool == "initcheck" else ["--kernel-name", "regex=(log_scan|dsn|bpsn)"]
    return ["compute-sanitizer", "--tool", tool, *filtered, "--error-exitcode", "9", sys.executable, str(script)]
