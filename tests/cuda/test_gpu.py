"""What only a GPU can show: streams, devices, graphs, the compiler, autocast, several processes,
the sanitizer.

`pytest -m gpu`. The conformance kit on every neuron and backend is in
`tests/neurons/test_conformance.py`.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from check import sanitizer, variants
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.scan import reference
from sj_lang_neurons.scan.cupy import log_scan
from torch import Tensor, nn

from sj_lang.bench import gpu
from sj_lang.bench.neuron import Pass
from sj_lang.neuron import state_dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All kernels, side by side: one after the other they take minutes."""
    variants.compile_all()


NODES: dict[str, Callable[[int], Any]] = {
    "dsn": lambda channels: DSN(channels=channels, backend="cupy"),
    "dsn, ATan": lambda channels: DSN(channels=channels, n=1, surrogate_function="ATan", backend="cupy"),
    "bpsn": lambda channels: BPSN(channels=channels, backend="cupy"),
    "bpsn, ternary": lambda channels: BPSN(channels=channels, spikes="ternary", offset=True, backend="cupy"),
}
SHAPES = [(128, 32, 768), (2048, 8, 1024), (4096, 1, 1000), (777, 3, 33), (16384, 1, 1024)]
each_node = pytest.mark.parametrize("make", NODES.values(), ids=NODES)


def gradients(node: Any, x: Tensor) -> list[Tensor]:
    """Spikes, and the gradients of x and of every parameter."""
    leaf = x.detach().requires_grad_()
    spikes = node.functional(leaf)[0]
    weight = torch.linspace(-1, 1, spikes.numel(), device=x.device).view(spikes.shape)
    return [spikes.detach(), *torch.autograd.grad((spikes.float() * weight).sum(), [leaf, *node.parameters()])]


def assert_close(ours: list[Tensor], true: list[Tensor], close: float, flips: float = 1e-3) -> None:
    assert (ours[0].float() != true[0].float()).float().mean() <= flips
    for a, b in zip(ours[1:], true[1:], strict=True):
        scale = float(b.float().abs().max())
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=close * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_node
def test_equals_the_torch_operator_at_full_size(make: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    node, x = make(shape[-1]).cuda(), (torch.randn(shape, device="cuda") * 2).to(dtype)
    ours = gradients(node, x)
    node.backend = "torch"
    assert_close(ours, gradients(node, x), 2e-3 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_scan(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    g = -torch.rand(shape, device="cuda").to(dtype) / 10
    u = torch.randn(shape, device="cuda").to(dtype)
    h_0 = torch.randn(shape[1:], device="cuda", dtype=state_dtype(u))
    h, last = log_scan(g, u, h_0)
    true = reference.sequence(g.double().exp(), u.double(), h_0.double())
    scale = float(true.abs().max())
    close = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    torch.testing.assert_close(h.double(), true, rtol=0, atol=close * scale)
    torch.testing.assert_close(
        last.double(), true[-1], rtol=0, atol=max(1e-5 if dtype != torch.float64 else 0, 1e-12) * scale
    )


@each_node
def test_on_a_stream_of_its_own(make: Any) -> None:
    """The kernel waits for what was put on the same stream before it, and for nothing else."""
    node, x = make(256).cuda(), torch.randn(512, 4, 256, device="cuda")
    want = gradients(node, x * 2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late = x * 2
        got = gradients(node, late)
    torch.cuda.current_stream().wait_stream(stream)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_split_sequences_on_streams_at_once() -> None:
    """Each stream has memory of its own, and each run gives the same bits, whoever comes first."""
    node = DSN(channels=256, backend="cupy").cuda()
    for dtype in (torch.float32, torch.bfloat16):
        xs = [torch.randn(16_384, 1, 256, device="cuda").to(dtype) for _ in range(4)]
        want = [gradients(node, x) for x in xs]
        streams = [torch.cuda.Stream() for _ in xs]
        torch.cuda.synchronize()
        for _ in range(10):
            got = []
            for stream, x in zip(streams, xs, strict=True):
                with torch.cuda.stream(stream):
                    got.append(gradients(node, x))
            torch.cuda.synchronize()
            for ours, true in zip(got, want, strict=True):
                assert all(map(torch.equal, ours, true))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
@each_node
def test_on_the_second_device(make: Any) -> None:
    first, x = make(64).cuda(0), torch.randn(100, 2, 64, device="cuda:0")
    second = make(64).to("cuda:1")
    second.load_state_dict(first.state_dict())
    want = gradients(first, x)
    for a, b in zip(gradients(second, x.to("cuda:1")), want, strict=True):
        assert a.device == torch.device("cuda", 1)
        assert torch.equal(a.cpu(), b.cpu())
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("steps", [300, 4_096])
@each_node
def test_as_a_cuda_graph(make: Any, steps: int) -> None:
    node, x = make(256).cuda(), torch.randn(steps, 4, 256, device="cuda")
    gradients(node, x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradients(node, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = gradients(node, x)
    for seed in (1, 2):
        torch.manual_seed(seed)
        x.copy_(torch.randn_like(x) * 2)
        graph.replay()
        for a, b in zip(out, gradients(node, x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@each_node
def test_compiled_without_a_break(make: Any, compiler: str) -> None:
    node, x = make(64).cuda(), torch.randn(100, 2, 64, device="cuda")
    want = gradients(node, x)
    compiled: Any = torch.compile(node.functional, fullgraph=True, backend=compiler)
    leaf = x.detach().requires_grad_()
    spikes = compiled(leaf)[0]
    weight = torch.linspace(-1, 1, spikes.numel(), device="cuda").view(spikes.shape)
    got = [spikes.detach(), *torch.autograd.grad((spikes * weight).sum(), [leaf, *node.parameters()])]
    assert_close(got, want, 1e-4)


@each_node
def test_under_autocast(make: Any) -> None:
    """bfloat16 comes from the layer before, states stay float32,
    and the spikes are those without autocast.
    """
    torch.manual_seed(0)
    layer, node = nn.Linear(64, 64).cuda(), make(64).cuda()
    x = torch.randn(100, 2, 64, device="cuda") * 3
    with torch.autocast("cuda", dtype=torch.bfloat16):
        current = layer(x)
        spikes, state = node.functional(current)
    assert spikes.dtype == current.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in state.values())
    assert torch.equal(spikes, node.functional(current)[0])


PROCESS = """
import torch, torch.distributed as dist
from sj_lang_neurons import BPSN, DSN
dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
torch.manual_seed(rank)
first, second = DSN(channels=32, backend="cupy"), BPSN(channels=32, backend="cupy")
net = torch.nn.Sequential(torch.nn.Linear(32, 32), first, torch.nn.Linear(32, 32), second).cuda()
net = torch.nn.parallel.DistributedDataParallel(net, device_ids=[rank])
net(torch.randn(40, 2, 32, device="cuda") * 3).sum().backward()
for parameter in net.parameters():
    mine = parameter.grad.clone()
    dist.all_reduce(mine)
    torch.testing.assert_close(mine / dist.get_world_size(), parameter.grad)
    assert parameter.grad.isfinite().all()
assert torch.cuda.current_device() == rank
dist.destroy_process_group()
"""


def test_distributed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROCESS)
    count = min(2, torch.cuda.device_count())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("compute-sanitizer"), reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_sanitizer(tool: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(sanitizer.SCRIPT)
    command = sanitizer.command(tool, script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_time_of_a_layer() -> None:
    """At BERT's size forward and backward take 20 us in a CUDA graph. Eager calls are the host's.

    Python's share of an eager call is tested without a GPU, in `test_host_cost.py`.
    """
    shape = (128, 32, 768)
    xs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(12)]
    timed = Pass(DSN(channels=768, backend="cupy").cuda(), xs, xs)
    host, graph = gpu.queue(timed.both).host_us, gpu.graph_us(timed.both, len(xs))
    print(f"\nhost {host:.0f} us, graph {graph:.1f} us")
    assert graph <= 20
