"""Launching: what is inlined, what is compiled once, and what is refused with which reason."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sj_lang import cuda


class Driver:
    """A machine with a GPU, as CuPy and torch would show it: driver, NVRTC, capability;
    and what was launched.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.toolkit, self.capability, self.devices = 12_040, (12, 9), (9, 0), 2
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.launched: list[Any] = []
        self.stack: list[Any] = []
        self.made: list[Any] = []
        cupy = ModuleType("cupy")
        cupy.__version__ = "14.0"
        cupy.RawModule = self.module
        cupy.cuda = SimpleNamespace(
            runtime=SimpleNamespace(driverGetVersion=lambda: self.driver),
            nvrtc=SimpleNamespace(getVersion=lambda: self.toolkit),
            Device=lambda index: self.inside(f"cupy device {index}"),
            Stream=SimpleNamespace(from_external=lambda s: self.external(f"stream {s.__cuda_stream__()[1]}")),
            ExternalStream=lambda pointer, index: self.external(f"stream {pointer} of {index}"),
        )
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: self.capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
        monkeypatch.setattr(torch.cuda, "device", lambda index: self.inside(f"torch device {index}"))
        self.stream = 71
        monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=self.stream))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.devices)
        self.capturing = False
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)

    @contextmanager
    def inside(self, what: str) -> Iterator[None]:
        self.stack.append(what)
        yield
        assert self.stack.pop() == what

    def external(self, what: str) -> Any:
        """A stream of CuPy, to be entered often; where it was made is noted."""
        driver = self
        self.made.append((what, list(self.stack)))

        class Stream:
            def __enter__(self) -> None:
                driver.stack.append(what)

            def __exit__(self, *_: object) -> None:
                assert driver.stack.pop() == what

        return Stream()

    def module(self, code: str, options: tuple[str, ...], backend: str) -> Any:
        assert backend == "nvrtc"
        self.compiled.append((code, options))

        class Kernel:
            def compile(kernel) -> None:
                assert "torch device 1" in self.stack

            def __call__(kernel, *arguments: Any) -> None:
                self.launched.append((list(self.stack), *arguments))

        return SimpleNamespace(get_function=lambda name: Kernel())


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    caches = (cuda._missing, cuda._unsupported, cuda._function, cuda._stream)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


def launch(path: Path, macros: dict[str, int], arguments: list[Any], grid: tuple[int, int] = (3, 1)) -> None:
    cuda.launch(path, "go", macros, grid, (32, 4), arguments, torch.device("cuda", 1))


def test_one_module_per_variant_on_torchs_stream_and_device(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "kernel.cu"
    path.write_text("text")
    launch(path, {"IO": 3, "RUNS": 4}, [7, 0.5, None])
    launch(path, {"RUNS": 4, "IO": 3}, [8, 0.5, None])
    launch(path, {"RUNS": 8, "IO": 3}, [9, 0.5, None])
    assert driver.compiled == [("text", (*cuda.OPTIONS, "-DIO=3", f"-DRUNS={runs}")) for runs in (4, 8)]
    where = ["torch device 1", "cupy device 1", "stream 71"]
    assert driver.launched == [(where, (3, 1), (32, 4), (first, 0.5, 0)) for first in (7, 8, 9)]
    assert not driver.stack


def test_a_first_call_while_a_graph_is_captured(driver: Driver, tmp_path: Path) -> None:
    """It cannot be compiled then; what was compiled before is launched."""
    (tmp_path / "kernel.cu").write_text("text")
    driver.capturing = True
    with pytest.raises(RuntimeError, match=r"go: a kernel is compiled .* before the capture"):
        launch(tmp_path / "kernel.cu", {}, [])
    driver.capturing = False
    launch(tmp_path / "kernel.cu", {}, [])
    driver.capturing = True
    launch(tmp_path / "kernel.cu", {}, [])
    assert len(driver.launched) == 2


def test_streams_are_wrapped_once_on_their_device(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    for driver.stream in (71, 72, 71):
        launch(tmp_path / "kernel.cu", {}, [])
    device = ["torch device 1", "cupy device 1"]
    assert [where for where, *_ in driver.launched] == [[*device, f"stream {n}"] for n in (71, 72, 71)]
    assert driver.made == [("stream 71", device), ("stream 72", device)]


def test_one_device_is_not_switched_to(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    driver.devices = 1
    launch(tmp_path / "kernel.cu", {}, [])
    assert driver.launched[0][0] == ["stream 71"]


def test_a_reason_is_asked_for_again(driver: Driver, tmp_path: Path) -> None:
    """Until there is none: then the kernel is kept."""
    (tmp_path / "kernel.cu").write_text("text")
    driver.capability = (5, 0)
    with pytest.raises(RuntimeError, match="go: needs compute capability"):
        launch(tmp_path / "kernel.cu", {}, [])
    driver.capability = (9, 0)
    cuda._unsupported.cache_clear()
    launch(tmp_path / "kernel.cu", {}, [])
    driver.capability = (5, 0)
    launch(tmp_path / "kernel.cu", {}, [])
    assert len(driver.compiled) == 1


def test_a_cupy_that_does_not_know_the_protocol_of_streams(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    del sys.modules["cupy"].cuda.Stream.from_external
    launch(tmp_path / "kernel.cu", {}, [])
    assert driver.launched[0][0] == ["torch device 1", "cupy device 1", "stream 71 of 1"]


def test_an_empty_grid_is_not_launched(driver: Driver, tmp_path: Path) -> None:
    launch(tmp_path / "absent.cu", {}, [], grid=(0, 1))
    assert not driver.launched


def test_includes_are_taken_in_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.cuh").write_text("A\n")
    (tmp_path / "sub" / "b.cuh").write_text('#include "../a.cuh"\nB\n')
    (tmp_path / "kernel.cu").write_text('// k\n#include "a.cuh"\n#include "sub/b.cuh"\nK\n')
    assert cuda.source(tmp_path / "kernel.cu").split() == ["//", "k", "A", "B", "K"]


def test_more_blocks_than_a_grid_takes(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"go: 2147483648 blocks are more than a grid can have, which is 2147483647; split"
    ):
        launch(tmp_path, {}, [], grid=(2**31, 1))
    with pytest.raises(
        ValueError, match="65536 blocks are more than a grid can have, which is 65535; split the batch or the sequence"
    ):
        launch(tmp_path, {}, [], grid=(1, 2**16))


def test_tensors_on_two_devices(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go: all tensors must be on one device, got cuda:1 and cpu"):
        launch(tmp_path, {}, [torch.zeros(1)])


CUDA = torch.device("cuda", 0)


def why_not() -> str:
    reason = cuda.unavailable("cuda", 0)
    assert isinstance(reason, str)
    return reason


def test_nothing_is_missing(driver: Driver) -> None:
    assert why_not() == ""
    assert cuda.why_not(None) == ""


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ("13.0", "torch (built for CUDA 13.0) sees none: no GPU, or no driver or"),
        (None, "this torch is built for the CPU only"),
    ],
)
def test_no_driver(monkeypatch: pytest.MonkeyPatch, built: str | None, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    assert message in why_not()


@pytest.mark.parametrize(("built", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13")])
def test_no_cupy(driver: Driver, monkeypatch: pytest.MonkeyPatch, built: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", built)
    assert f"needs CuPy: pip install 'sj-lang-neurons[{extra}]'" in why_not()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise ImportError('libnvrtc.so.12: cannot open shared object file')",
            "ImportError: libnvrtc.so.12: cannot open",
        ),
        ("import no_such_module_of_cupy", "cannot be imported: No module named 'no_such_module_of_cupy'"),
    ],
)
def test_cupy_that_cannot_be_imported(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "cupy.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy")
    assert "needs CuPy, which is installed and cannot be imported" in why_not()
    assert message in why_not()


def test_a_driver_that_is_not_there_though_torch_sees_a_device(driver: Driver) -> None:
    driver.driver = 0
    assert "finds no NVIDIA driver" in why_not()


def test_a_driver_older_than_the_toolkit(driver: Driver) -> None:
    driver.toolkit = (13, 0)
    assert why_not() == (
        "the driver is for CUDA 12.4, older than CuPy's toolkit, 13.0: update the driver or install "
        "'sj-lang-neurons[cuda12]'"
    )


@pytest.mark.parametrize(
    ("toolkit", "capability", "message"),
    [
        ((12, 9), (6, 1), "needs compute capability 7.0 with CUDA 12, Card has 6.1"),
        ((13, 0), (7, 0), "needs compute capability 7.5 with CUDA 13, Card has 7.0: install 'sj-lang-neurons[cuda12]'"),
        ((12, 9), (7, 0), ""),
        ((13, 0), (7, 5), ""),
    ],
)
def test_capability(driver: Driver, toolkit: tuple[int, int], capability: tuple[int, int], message: str) -> None:
    driver.driver, driver.toolkit, driver.capability = 13_000, toolkit, capability
    assert why_not() == message


def test_a_driver_that_does_not_answer(driver: Driver) -> None:
    def fails() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver")

    sys.modules["cupy"].cuda.runtime.driverGetVersion = fails
    assert "CuPy 14.0 finds no driver or no NVRTC: RuntimeError: cudaErrorInsufficientDriver" in why_not()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(1, dtype=torch.int8), "takes float32, float64, float16, bfloat16, got torch.int8"),
        (lambda: torch.zeros(1), "needs a CUDA tensor, got one on cpu"),
    ],
)
def test_a_tensor_that_no_kernel_takes(driver: Driver, make: Callable[[], Any], message: str) -> None:
    assert cuda.why_not(make()) == message
