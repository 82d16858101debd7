"""What a call costs where no kernel takes any time: Python, torch and the number of launches.

Figures: `pytest tests/cuda/test_host_cost.py -k python -s`, with OMP_NUM_THREADS=1.
"""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.scan import chain
from torch.utils._python_dispatch import TorchDispatchMode

from sj_lang import cuda, operators

NODES: dict[str, Callable[[], Any]] = {
    "DSN": lambda: DSN(channels=4, backend="cupy"),
    "BPSN": lambda: BPSN(channels=4, backend="cupy"),
    "BPSN forward": lambda: BPSN(channels=4, direction="forward", backend="cupy"),
}


class Nothing:
    """An engine whose launches do nothing, and their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def why_not(self, index: int | None) -> str:
        return ""

    def function(self, path: Path, name: str, *_: Any) -> cuda.Function:
        return lambda grid, block, kinds: lambda packed: self.names.append(name)


@pytest.fixture
def nothing() -> Iterator[Nothing]:
    with cuda.using("cpu", engine := Nothing()):
        yield engine


def microseconds(work: Callable[[], Any], calls: int = 1_000) -> float:
    """Time of one call, the least of many, as others may use the machine."""
    times = []
    gc.disable()
    for _ in range(calls):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    gc.enable()
    return min(times) * 1e6


class Launches(TorchDispatchMode):
    """Names of kernels, and of the operations of torch that launch one on a GPU."""

    def __init__(self, nothing: Nothing, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.names = nothing.names
        # what is in an operator is seen too
        monkeypatch.setattr(operators, "_PLAIN", -1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not (func.is_view or "empty" in name or name == "detach"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))

    def of(self, work: Callable[[], Any]) -> Any:
        """What a call returns; the names are those of this call."""
        self.names.clear()
        with self:
            return work()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("decay", ["conv", "static"])
def test_launches_of_dsn(decay: Any, dtype: torch.dtype, nothing: Nothing, monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward, whatever is done with the states; a kernel and a sum backward."""
    launches = Launches(nothing, monkeypatch)
    node, x = DSN(channels=4, decay=decay, backend="cupy"), torch.randn(128, 2, 4).to(dtype).requires_grad_()
    leaves, gradient = [x, *node.parameters()], torch.zeros(128, 2, 4, dtype=dtype)
    spikes, state = launches.of(lambda: node.functional(x))
    assert launches.names == ["dsn"]
    launches.of(lambda: torch.autograd.grad(spikes, leaves, gradient))
    assert launches.names == ["dsn_backward", "sum"]
    state = {name: value.detach().requires_grad_() for name, value in state.items()}
    spikes, after = launches.of(lambda: node.functional(x, state))
    assert launches.names == ["dsn"]
    given = [gradient, *map(torch.zeros_like, after.values())]
    launches.of(lambda: torch.autograd.grad([spikes, *after.values()], [*leaves, *state.values()], given))
    assert launches.names == ["dsn_backward", "sum"]


@pytest.mark.parametrize("channels", [4, 16])
def test_launches_of_a_split_sequence(channels: int, nothing: Nothing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many, but for the first, which makes the memory that blocks share."""
    monkeypatch.setattr(chain, "_KEPT", {})
    launches = Launches(nothing, monkeypatch)
    node, x = DSN(channels=channels, backend="cupy"), torch.randn(2_048, 1, channels).bfloat16().requires_grad_()
    leaves, gradient = [x, *node.parameters()], torch.zeros_like(x)
    name = "dsn_fast" if channels == 16 else "dsn"
    for memory in (["zeros"], []):
        spikes, _ = launches.of(lambda: node.functional(x))
        assert launches.names == [*memory, name]
        launches.of(lambda: torch.autograd.grad(spikes, leaves, gradient))  # noqa: B023
        assert launches.names == [*memory, f"{name}_backward", "sum"]


@pytest.mark.parametrize("steps", [128, 300])
@pytest.mark.parametrize("options", [{}, {"direction": "forward"}], ids=str)
def test_launches_of_bpsn(
    options: dict[str, Any], steps: int, nothing: Nothing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One forward, a kernel and a sum backward; three phases each way for more than a chunk, with
    zeros for a side that is not there.
    """
    launches = Launches(nothing, monkeypatch)
    node, x = BPSN(channels=4, backend="cupy", **options), torch.randn(steps, 2, 4, requires_grad=True)
    leaves, gradient = [x, *node.parameters()], torch.zeros(steps, 2, 4)
    phases = {128: ["bpsn"], 300: ["bpsn_chunks", "bpsn_carries", "bpsn"]}[steps]
    back = {128: ["bpsn_backward", "sum"], 300: ["bpsn_backward_chunks", "bpsn_carries", "bpsn_backward", "sum"]}[steps]
    spikes, _ = launches.of(lambda: node.functional(x))
    assert [name for name in launches.names if name != "zeros_like"] == phases
    launches.of(lambda: torch.autograd.grad(spikes, leaves, gradient))
    assert [name for name in launches.names if name != "zeros_like"] == back


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
@pytest.mark.usefixtures("nothing")
def test_share_of_python(make: Callable[[], Any]) -> None:
    node, x = make(), torch.randn(3, 2, 4, requires_grad=True)
    leaves, gradient = [x, *node.parameters()], torch.zeros(3, 2, 4)
    step = microseconds(lambda: torch.autograd.grad(node.functional(x)[0], leaves, gradient))
    forward = microseconds(lambda: node.functional(x))
    print(f"\n{step:.0f} us a training step, {forward:.0f} of it forward")
    assert forward < step
