"""Launching: what is inlined, what is compiled once, and what is refused with which reason."""

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sj_lang import cuda
from sj_lang.cuda import driver as cuda_driver
from sj_lang.cuda import nvidia, nvrtc

pytestmark = pytest.mark.any_line


class Driver:
    """A machine with a GPU, as CuPy and torch would show it: driver, NVRTC, capability;
    and what was launched.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.toolkit, self.capability = 12_040, (12, 9), (9, 0)
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.launched: list[Any] = []
        self.stack: list[Any] = []
        cupy = ModuleType("cupy")
        cupy.__version__ = "14.0"
        cupy.RawModule = self.module
        cupy.cuda = SimpleNamespace(
            runtime=SimpleNamespace(driverGetVersion=lambda: self.driver),
            nvrtc=SimpleNamespace(getVersion=lambda: self.toolkit),
        )
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: self.capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
        monkeypatch.setattr(torch.cuda, "device", lambda index: self.inside(index))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda index: None)
        self.stream, self.current, self.codes = 71, 0, [0]
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: self.stream, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: self.current, raising=False)
        self.capturing = False
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        library = SimpleNamespace(
            cuCtxGetCurrent=lambda context: 0,
            cuCtxSetCurrent=lambda context: self.stack.append("context") or 0,
            cuLaunchKernel=self.launch,
            cuGetErrorString=self.describe,
            cuDriverGetVersion=self.tell_version,
            cuModuleLoadData=lambda module, image: self.compiled.append((image, ())) or 0,
            cuModuleGetFunction=lambda function, module, name: 0,
        )
        monkeypatch.setattr(cuda_driver, "library", lambda: library)

    @contextmanager
    def inside(self, index: int) -> Iterator[None]:
        before, self.current = self.current, index
        yield
        self.current = before

    def describe(self, code: int, text: Any) -> int:
        text._obj.value = b"an error"
        return 0

    def tell_version(self, number: Any) -> int:
        number._obj.value = self.driver
        return 0

    def launch(self, function: int, *rest: Any) -> int:
        *shape, shared, stream, none, extra = rest
        assert (shared, none, extra.is_buffer, extra.is_size, extra.end) == (0, None, 1, 2, None)
        address = ctypes.c_void_p.from_buffer(extra, type(extra).buffer.offset).value
        packed = ctypes.string_at(address, ctypes.c_size_t.from_address(extra.size).value)
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        if not code:
            self.launched.append((self.current, stream, tuple(shape), packed))
        return code

    def module(self, code: str, options: tuple[str, ...], backend: str) -> Any:
        assert backend == "nvrtc"
        self.compiled.append((code, options))
        kernel = SimpleNamespace(compile=lambda: None, kernel=SimpleNamespace(ptr=5))
        assert self.current == 1
        return SimpleNamespace(get_function=lambda name: kernel)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    caches = (nvidia._missing, nvidia._unsupported, cuda._function, nvidia._without_cupy)
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
    packed = [struct.pack("qdq", first, 0.5, 0) for first in (7, 8, 9)]
    assert driver.launched == [(1, 71, (3, 1, 1, 32, 4, 1), values) for values in packed]
    assert driver.current == 0


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


def test_each_launch_is_on_the_current_stream(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    for driver.stream in (71, 72, 71):
        launch(tmp_path / "kernel.cu", {}, [])
    assert [stream for _, stream, *_ in driver.launched] == [71, 72, 71]


def test_a_thread_without_a_context_gets_that_of_the_kernel(driver: Driver, tmp_path: Path) -> None:
    """As autograd's threads may be, which have only allocated from torch's cache."""
    (tmp_path / "kernel.cu").write_text("text")
    driver.codes = [cuda_driver.NO_CONTEXT, 0]
    launch(tmp_path / "kernel.cu", {}, [1])
    assert driver.stack == ["context"]
    assert len(driver.launched) == 1


def test_an_error_of_the_driver(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    driver.codes = [701]
    with pytest.raises(RuntimeError, match=r"the CUDA driver says: an error \(701\)"):
        launch(tmp_path / "kernel.cu", {}, [1])


def test_a_plan_launches_with_other_tensors(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernel.cu").write_text("text")
    monkeypatch.setitem(cuda.ENGINES, "cpu", cuda.ENGINES["cuda"])
    x, device = torch.zeros(2), torch.device("cpu")
    driver.current = 1
    monkeypatch.setattr(cuda, "_index", lambda device: 1)
    plan = cuda.Plan(tmp_path / "kernel.cu", "go", {}, (3, 1), (32, 4), 2, [7, 0.5], device)
    plan(x, None)
    plan(None, x[1:])
    assert [struct.unpack("qqqd", values) for *_, values in driver.launched] == [
        (x.data_ptr(), 0, 7, 0.5),
        (0, x.data_ptr() + 4, 7, 0.5),
    ]
    with pytest.raises(ValueError, match="go: all tensors must be on one device, got cpu and meta"):
        plan(x, x.to("meta"))


def test_a_reason_is_asked_for_again(driver: Driver, tmp_path: Path) -> None:
    """Until there is none: then the kernel is kept."""
    (tmp_path / "kernel.cu").write_text("text")
    driver.capability = (5, 0)
    with pytest.raises(RuntimeError, match="go: needs compute capability"):
        launch(tmp_path / "kernel.cu", {}, [])
    driver.capability = (9, 0)
    nvidia._unsupported.cache_clear()
    launch(tmp_path / "kernel.cu", {}, [])
    driver.capability = (5, 0)
    launch(tmp_path / "kernel.cu", {}, [])
    assert len(driver.compiled) == 1


def test_plans_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PLANS", {})
    monkeypatch.setattr(cuda, "MOST_PLANS", 3)
    for length in range(10):
        cuda.remember(("go", length), length)
    assert cuda.PLANS == {("go", 9): 9}


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


class NVRTC:
    """A compiler of NVIDIA's wheels."""

    def __init__(self, *version: int) -> None:
        self.version = version

    def compile(self, path: Path, macros: dict[str, int], *, arch: str) -> Any:
        return SimpleNamespace(binary=f"{path.read_text()} {macros} {arch}".encode())


@pytest.mark.parametrize(("versions", "why"), [([(12, 9), (13, 0)], ""), ([(13, 0)], "needs CuPy: pip install")])
def test_without_cupy(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, versions: list[tuple[int, int]], why: str
) -> None:
    """The newest NVRTC that the driver accepts compiles, if there is one."""
    (tmp_path / "kernel.cu").write_text("text")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(nvrtc, "compilers", lambda: [NVRTC(*version) for version in versions])
    assert why in why_not()
    if why:
        return
    launch(tmp_path / "kernel.cu", {"IO": 3}, [7])
    assert driver.compiled == [(b"text {'IO': 3} sm_90", ())]
    assert driver.launched == [(1, 71, (3, 1, 1, 32, 4, 1), struct.pack("q", 7))]
    driver.capability = (6, 1)
    nvidia._unsupported.cache_clear()
    assert "needs compute capability 7.0 with CUDA 12, Card has 6.1" in why_not()


@pytest.mark.parametrize(("built", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13")])
def test_no_cupy(driver: Driver, monkeypatch: pytest.MonkeyPatch, built: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(nvrtc, "compilers", list)
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
    monkeypatch.setattr(nvrtc, "compilers", list)
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
