"""The stand-in for CUDA: it finds what a GPU would punish, and it computes what a GPU computes."""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.scan import cupy
from torch import Tensor

from sj_lang import cuda
from sj_lang.testing.emulate import ORDERS, build, compiler, emulated

pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(not compiler(), reason="kernels are run as C++, and there is no C++ compiler here"),
]

NEIGHBOUR = """
extern "C" __global__ void neighbour(const float *x, float *out, long long n, double scale) {
    __shared__ float memory[64];
    memory[threadIdx.x] = x[threadIdx.x];
    SYNC
    out[threadIdx.x] = scale * memory[(threadIdx.x + 1) % n];
}
"""


def kernel(folder: Path, text: str) -> Path:
    path = folder / "kernel.cu"
    path.write_text(text)
    return path


def run(path: Path, order: str = "first to last", arguments: list[Any] | None = None) -> Tensor:
    x, out = torch.arange(8.0), torch.full((8,), -1.0)
    with emulated(order):
        given = [x, out, 8, 0.5] if arguments is None else arguments
        cuda.launch(path, "neighbour", {}, (1, 1), (8, 1), given, x.device)
    return out


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_make_all_orders_equal(tmp_path: Path, order: str) -> None:
    out = run(kernel(tmp_path, NEIGHBOUR.replace("SYNC", "__syncthreads();")), order)
    assert torch.equal(out, torch.arange(8.0).roll(-1) / 2)


def test_a_missing_barrier_is_seen(tmp_path: Path) -> None:
    """Shared memory that nobody has written yet is NaN."""
    path = kernel(tmp_path, NEIGHBOUR.replace("SYNC", ""))
    assert all(run(path, order).isnan().any() for order in ORDERS)


def test_a_barrier_that_only_some_reach_is_an_error(tmp_path: Path) -> None:
    path = kernel(tmp_path, NEIGHBOUR.replace("SYNC", "if (threadIdx.x > 3) return; __syncthreads();"))
    with pytest.raises(RuntimeError, match="some threads of a block returned while others waited"):
        run(path)


def test_arguments_that_are_not_what_the_kernel_takes(tmp_path: Path) -> None:
    path = kernel(tmp_path, NEIGHBOUR.replace("SYNC", ""))
    x = torch.zeros(8)
    with pytest.raises(TypeError, match=r"parameters are iiid .*, arguments iiii"):
        run(path, arguments=[x, x, 8, 1])


def test_text_that_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"kernel\.cu does not compile as C\+\+"):
        run(kernel(tmp_path, NEIGHBOUR.replace("SYNC", "nonsense")))


WAITING = """
extern "C" __global__ void waiting(volatile long long *flags, float *out) {
    const long long n = blockIdx.x;
    while (FOR_OTHERS) __nanosleep(20);
    __syncthreads();
    flags[n] = 1, out[n * 4 + threadIdx.x] = 1;
}
"""


@pytest.mark.parametrize(
    ("others", "stuck"), [("n && !flags[n - 1]", "last to first"), ("n < 5 && !flags[n + 1]", "first to last")]
)
def test_a_block_that_waits_for_another(tmp_path: Path, others: str, stuck: str) -> None:
    """It goes on when that one has come; if that one cannot start, it is an error, as on a GPU
    that is full. Some blocks at a time wait for each other.
    """
    path = kernel(tmp_path, WAITING.replace("FOR_OTHERS", others))
    for order in ORDERS:
        flags, out = torch.zeros(6, dtype=torch.int64), torch.zeros(24)
        with emulated(order):
            run = lambda: cuda.launch(path, "waiting", {}, (6, 1), (4, 1), [flags, out], out.device)  # noqa: E731, B023
            if order == stuck or (order == "shuffled" and stuck == "last to first"):
                with pytest.raises(RuntimeError, match="waiting: all blocks that have started wait for others"):
                    run()
            else:
                run()
                assert out.sum() == 24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_torch_rounds(tmp_path: Path, dtype: torch.dtype) -> None:
    """All 65,536 halves to float; floats, ties, overflow, subnormals and NaN to halves."""
    path = tmp_path / "kernel.cu"
    path.write_text(
        cuda.source(cupy.FILE.with_name("tile.cuh"))
        + 'extern "C" __global__ void convert(const io *a, real *wide, const real *b, io *narrow) {\n'
        "    const long long i = blockIdx.x; wide[i] = load(a[i]); narrow[i] = store(b[i]);\n}\n"
    )
    halves = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(dtype)
    bits = torch.randint(-(2**31), 2**31, (65_536,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    ties = halves.float().view(torch.int32) + (1 << (15 if dtype == torch.bfloat16 else 12))
    for floats in (bits.view(torch.float32), ties.view(torch.float32), halves.float() * 0.75):
        wide, narrow = torch.empty(65_536), torch.empty(65_536, dtype=dtype)
        with emulated():
            macros = {"IO": cuda.IO[dtype], "COLUMNS": 1, "RUNS": 1, "STEPS": 1}
            cuda.launch(path, "convert", macros, (65_536, 1), (1, 1), [halves, wide, floats, narrow], wide.device)
        torch.testing.assert_close(wide, halves.float(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(narrow, floats.to(dtype), rtol=0, atol=0, equal_nan=True)


FAST = """
extern "C" __global__ void fast(const float *x, float *out) {
    out[0] = x[0] * 0.5f, out[1] = __expf(x[1]), out[2] = __fdividef(x[2], x[3]), out[3] = __fdividef(4.0f, x[4]);
    out[4] = x[5] * x[5] - x[6];
}
"""


@pytest.mark.parametrize("rough", [False, True])
def test_arithmetic_of_a_gpu(tmp_path: Path, rough: bool) -> None:
    """Subnormal floats are 0; with `rough`, fast functions err
    and a product is not rounded before a sum.
    """
    path, out = kernel(tmp_path, FAST), torch.empty(5)
    square = 1 + 2.0**-12
    x = torch.tensor([2.0**-126, 3.3, 1.0, 3.0, 1e38, square, 1 + 2.0**-11])
    with emulated(rough=rough):
        cuda.launch(path, "fast", {}, (1, 1), (1, 1), [x, out], x.device)
    flushed, exp, third, fourth, rest = out.tolist()
    assert flushed == 0 or platform.machine() not in ("x86_64", "AMD64")
    assert exp == pytest.approx(float(x[1].double().exp()), rel=1e-6)
    assert third == pytest.approx(1 / 3, rel=3e-7)
    exact = (float(x[1].exp()), float(torch.tensor(1.0) / 3))
    assert ((exp, third) != exact) == rough
    assert fourth == (0 if rough else pytest.approx(4e-38))
    assert rest == (2.0**-24 if rough else 0)


@pytest.mark.parametrize("rough", [False, True])
def test_subnormal_halves_are_numbers(rough: bool) -> None:
    """A GPU takes subnormal floats for 0; those of float16 are normal floats."""
    u = torch.tensor([3e-5, -5e-6, 6e-8, 7e-5]).half().view(1, 1, 4)
    with emulated(rough=rough):
        h, last = cupy.log_scan(torch.zeros_like(u), u, torch.zeros(1, 4))
    assert torch.equal(h, u)
    assert torch.equal(last, u[0].float())


@pytest.mark.parametrize(("make", "far"), [(DSN, 1e-5), (BPSN, 1e-4)], ids=["dsn", "bpsn"])
def test_neurons_bear_the_errors_of_a_gpu(make: Any, far: float) -> None:
    torch.manual_seed(0)
    node, x = make(channels=5), torch.randn(150, 2, 5).mul(2).requires_grad_()
    results = []
    for backend in ("torch", "cupy"):
        with emulated(rough=True):
            node.backend = backend
            spikes = node.functional(x)[0]
            results.append(
                [spikes.detach(), *torch.autograd.grad((spikes * x.detach()).sum(), [x, *node.parameters()])]
            )
    (spikes, *gradients), (true_spikes, *true) = results
    assert (spikes != true_spikes).float().mean() <= 1e-3
    for a, b in zip(gradients, true, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=far * float(b.abs().max()))


def test_threads_build_the_same_kernel(tmp_path: Path) -> None:
    text = 'extern "C" __global__ void one(float *out) { out[threadIdx.x] = 1; }\n'
    path = kernel(tmp_path, text)
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build(path, ()), range(4)))
    assert len(set(built)) == 1
    assert built[0].exists()
