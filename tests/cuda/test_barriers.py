"""Every barrier of the fused kernels is needed: without any one of them,
some order of threads gives another result.
"""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.bpsn import cupy as bpsn
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.scan.cuda_layout import Tile
from torch import Tensor

from sj_lang import cuda
from sj_lang.testing.emulate import ORDERS, compiler, emulated

pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(not compiler(), reason="kernels are run as C++, and there is no C++ compiler here"),
]
#: BPSN's two before factors are written again: with the values that they have, so no result can
#: show it
SILENT = {"dsn": 0, "bpsn": 2}
RUNS = {"dsn": [4], "bpsn": [4, 8]}  # BPSN has other barriers with more than 4


@pytest.mark.parametrize(
    ("module", "make"),
    [(dsn, lambda: DSN(channels=8, k=3)), (bpsn, lambda: BPSN(channels=8))],
    ids=["dsn", "bpsn"],
)
def test_barriers(module: ModuleType, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    node, x = make().double(), torch.randn(40, 1, 8, dtype=torch.float64).mul(2).requires_grad_()
    weight = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(x.shape)

    def results(path: Path, order: str, runs: int) -> list[Tensor]:
        monkeypatch.setattr(module, "FILE", path)
        monkeypatch.setattr(module, "schedule", lambda columns, steps: Tile(8, runs, 2))
        with emulated(order):
            node.backend = "cupy"
            spikes = node.functional(x)[0]
            gradients = torch.autograd.grad((spikes * weight).sum(), [x, *node.parameters()])
            node.backend = "auto"
        return [spikes.detach(), *gradients]

    text, name = cuda.source(module.FILE), module.FILE.parent.name
    true = {runs: results(module.FILE, "first to last", runs) for runs in RUNS[name]}
    places = [match.start() for match in re.finditer(r"(?<!void )barrier\(\);", text)]
    assert len(places) >= 6
    silent = 0
    for place in places:
        path = tmp_path / f"without_{place}.cu"
        path.write_text(text[:place] + text[place:].replace("barrier();", ";", 1))
        silent += all(
            torch.equal(a, b)
            for runs in RUNS[name]
            for order in ORDERS
            for a, b in zip(results(path, order, runs), true[runs], strict=True)
        )
    assert silent == SILENT[name]
