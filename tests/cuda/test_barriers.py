"""Every barrier of the kernels is needed: without any one of them, some order of threads and blocks
gives another result.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.scan import chain
from sj_lang_neurons.scan import cupy as scan
from sj_lang_neurons.scan.cuda_layout import Tile
from torch import Tensor

from sj_lang import cuda
from sj_lang.testing.emulate import FAILED, ORDERS, compiler, emulated

pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(not compiler(), reason="kernels are run as C++, and there is no C++ compiler here"),
]
TILE = Tile(8, 4, 2)


def of_node(make: Callable[[], Any], x: Tensor) -> list[Tensor]:
    node = make().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    node.backend = "cupy"
    spikes = node.functional(x)[0]
    weight = torch.linspace(-1, 1, x.numel(), dtype=spikes.dtype).view(x.shape)
    return [spikes.detach(), *torch.autograd.grad((spikes * weight).sum(), [x, *node.parameters()])]


def of_scan(x: Tensor) -> list[Tensor]:
    h, last = scan.log_scan(-x.detach().abs(), x, torch.zeros(x.shape[1:], dtype=x.dtype))
    return [h.detach(), last.detach(), *torch.autograd.grad(h.sin().sum(), x)]


#: file's module, tiles (BPSN has other barriers with more than 4 runs), results of an input, its
#: shape and dtype, how many barriers there are, and how many of them cannot show: BPSN's two before
#: factors are written again, with the values that they have
CASES: dict[
    str, tuple[ModuleType, list[Tile], Callable[[Tensor], list[Tensor]], tuple[int, ...], torch.dtype, int, int]
] = {
    "dsn": (dsn, [TILE], lambda x: of_node(lambda: DSN(channels=8, k=3), x), (40, 1, 8), torch.float64, 6, 0),
    "bpsn": (
        bpsn,
        [TILE, Tile(8, 8, 2)],
        lambda x: of_node(lambda: BPSN(channels=8), x),
        (40, 1, 8),
        torch.float64,
        8,
        2,
    ),
    "fast": (
        cupy_fast,
        [Tile(32, 4, 8)],
        lambda x: of_node(lambda: DSN(channels=64), x),
        (96, 2, 64),
        torch.bfloat16,
        6,
        0,
    ),
    "scan": (scan, [TILE], of_scan, (40, 1, 8), torch.float64, 3, 0),
}
SPLIT = {
    f"{name}, split": (case[0], [replace(tile, split=True) for tile in case[1]], *case[2:])
    for name, case in CASES.items()
    if name != "bpsn"
}


@pytest.mark.parametrize(
    "case",
    [*CASES.values(), *(pytest.param(case, marks=pytest.mark.slow) for case in SPLIT.values())],
    ids=[*CASES, *SPLIT],
)
def test_every_barrier_is_needed(case: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, tiles, function, shape, dtype, barriers, silent = case
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) * 2).to(dtype).requires_grad_()

    def results(path: Path, order: str) -> list[Tensor] | None:
        monkeypatch.setattr(module, "FILE", path)
        made: list[Tensor] = []
        for tile in tiles:
            monkeypatch.setattr(module, "schedule", lambda *_, tile=tile: tile)
            monkeypatch.setattr(chain, "_KEPT", {})  # a kernel with a fault leaves its counters
            torch.manual_seed(0)
            try:
                with emulated(order):
                    made += function(x)
            except RuntimeError as error:
                if not any(reason in str(error) for reason in FAILED.values()):
                    raise
                return None
        return made

    text = cuda.source(module.FILE)
    true = results(module.FILE, "first to last")
    assert true is not None
    places = [match.start() for match in re.finditer(r"(?<!void )barrier\(\);", text)]
    assert len(places) == barriers
    unseen = []
    for place in places:
        path = tmp_path / f"without_{place}.cu"
        path.write_text(text[:place] + text[place:].replace("barrier();", ";", 1))
        found = (results(path, order) for order in ORDERS)
        if all(one is not None and all(map(torch.equal, one, true)) for one in found):
            unseen.append(text[place - 100 : place])
    assert len(unseen) == silent, "\n---\n".join(unseen)
