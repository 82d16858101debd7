"""What a call costs where no kernel takes any time: Python, torch and the number of launches.

Figures: `pytest tests/cuda/test_host_cost.py -k python -s`, with OMP_NUM_THREADS=1.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN

from sj_lang import cuda

NODES: dict[str, Callable[[], Any]] = {
    "DSN": lambda: DSN(channels=4, backend="cupy"),
    "BPSN": lambda: BPSN(channels=4, backend="cupy"),
    "BPSN forward": lambda: BPSN(channels=4, direction="forward", backend="cupy"),
}


class Nothing:
    """An engine whose launches do nothing."""

    def why_not(self, index: int | None) -> str:
        return ""

    def function(self, *_: Any) -> cuda.Launch:
        return lambda grid, block, arguments: None


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(cuda.ENGINES, "cpu", Nothing())
    cuda._function.cache_clear()
    yield
    cuda._function.cache_clear()


def microseconds(work: Callable[[], Any], repeat: int = 15, number: int = 20) -> float:
    """CPU time of one call, the least of several."""
    found = []
    for _ in range(repeat):
        start = time.process_time()
        for _ in range(number):
            work()
        found.append((time.process_time() - start) / number * 1e6)
    return min(found)


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
@pytest.mark.usefixtures("nothing")
def test_share_of_python(make: Callable[[], Any]) -> None:
    node, x = make(), torch.randn(3, 2, 4, requires_grad=True)
    leaves, gradient = [x, *node.parameters()], torch.zeros(3, 2, 4)
    step = microseconds(lambda: torch.autograd.grad(node.functional(x)[0], leaves, gradient))
    forward = microseconds(lambda: node.functional(x))
    print(f"\n{step:.0f} us a training step, {forward:.0f} of it forward")
    assert forward < step
