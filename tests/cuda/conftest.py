"""CUDA kernels without a GPU: compiled as C++ and run on the CPU."""

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from torch import Tensor

from sj_lang import cuda
from sj_lang.testing import emulate
from sj_lang.testing.emulate import ORDERS, compiler, emulated

NEEDS_COMPILER = "kernels are run as C++, and there is no C++ compiler here"


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The workers of pytest-xdist share what they compile."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent / "kernels"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulate, "_folder", lambda: SimpleNamespace(name=folder))
        yield


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Backend "cupy" runs on the CPU."""
    if not compiler():
        pytest.skip(NEEDS_COMPILER)
    with emulated():
        yield


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Tensor | None, ...]]]:
    """Names and tensors of the kernels that operators launched."""
    seen: list[tuple[str, tuple[Tensor | None, ...]]] = []
    run = cuda.Plan.__call__

    def note(plan: cuda.Plan, *tensors: Tensor | None) -> None:
        seen.append((plan.name, tensors))
        run(plan, *tensors)

    monkeypatch.setattr(cuda.Plan, "__call__", note)
    return seen


@pytest.fixture(params=sorted(ORDERS))
def in_any_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """As `on_cpu`, with the threads of a block in another order each time."""
    if not compiler():
        pytest.skip(NEEDS_COMPILER)
    with emulated(request.param):
        yield
