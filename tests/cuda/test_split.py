"""Sequences that are split over blocks: bit for bit what one block computes, in whatever order
blocks start, and whatever an earlier launch left in the memory through which they hand states on.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from kernel_checks import KERNEL_CHECKS
from sj_lang_neurons import DSN
from sj_lang_neurons.dsn import cupy as dsn
from sj_lang_neurons.dsn import cupy_fast
from sj_lang_neurons.scan import chain
from sj_lang_neurons.scan import cupy as scan
from sj_lang_neurons.scan.cuda_layout import SPLIT_BELOW, Tile, schedule
from torch import Tensor

from sj_lang import cuda, plugins
from sj_lang.testing import check_node
from sj_lang.testing.emulate import FAILED, compiler, emulated
from sj_lang.testing.kernels import unwritten_memory_is_nan

pytestmark = pytest.mark.any_line

TILES = {"six groups": Tile(4, 5, 8), "one group": Tile(32, 4, 4)}
CHECKS = sorted({*KERNEL_CHECKS} - {"large_batches", "steps_equal_sequence", "half_precision", "without_a_graph"})


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Tensor]:
    """The memory through which states travel, of this test alone."""
    monkeypatch.setattr(chain, "_KEPT", kept := {})
    return kept


def use(monkeypatch: pytest.MonkeyPatch, tile: Tile) -> None:
    for module in (dsn, scan):
        monkeypatch.setattr(module, "schedule", lambda *_: tile)
    monkeypatch.setattr(cuda, "PLANS", {})


def of_dsn(node: DSN, x: Tensor, mask: Tensor | None, *, of_tail: bool = False) -> list[Tensor]:
    """Spikes, states, gradients of x and both states, and last of the parameters."""
    x = x.detach().requires_grad_()
    start = {name: value.add(0.3).requires_grad_() for name, value in node.init_state(x).items()}
    with unwritten_memory_is_nan():
        spikes, after = node.functional(x, start, mask)
        loss = (spikes.to(after["h"].dtype) * torch.linspace(-1, 1, spikes.numel()).view(spikes.shape)).sum()
        loss = loss + after["h"].sum() + (after["tail"].sin().sum() if of_tail else 0)
        leaves = [x, *start.values(), *node.parameters()]
        return [spikes, *after.values(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]


def of_scan(x: Tensor, lengths: Tensor | None) -> list[Tensor]:
    g, u = (-x.detach().square()).requires_grad_(), x.detach().requires_grad_()
    h_0 = torch.ones(x.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32), requires_grad=True)
    with unwritten_memory_is_nan():
        h, last = scan.log_scan(g, u, h_0, lengths)
        loss = (h.to(h_0.dtype) * torch.linspace(-1, 1, h.numel()).view(h.shape)).sum() + last.sum()
        return [h, last, *torch.autograd.grad(loss, [g, u, h_0])]


def inputs(steps: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(steps, 3, 7, dtype=torch.float64) * 2).to(dtype)


def equal(ours: list[Tensor], true: list[Tensor]) -> None:
    for number, (a, b) in enumerate(zip(ours, true, strict=True)):
        assert torch.equal(a, b), number
        assert not b.isnan().any()


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize(
    ("options", "steps", "dtype"),
    [
        ({}, 150, torch.float64),
        ({}, 81, torch.bfloat16),
        ({"decay": "linear"}, 80, torch.float32),
        ({"decay": "static", "tau": 0.7}, 41, torch.float16),
        ({"k": 5, "n": 1, "surrogate_function": "ATan"}, 3, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.usefixtures("in_any_order")
def test_dsn(
    tile: Tile, options: Any, steps: int, dtype: torch.dtype, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of parameters are sums of other parts, in a fixed order."""
    x, mask = inputs(steps, dtype), torch.arange(steps)[:, None] < torch.tensor([steps, 0, steps // 2 + 1])
    node = DSN(channels=7, backend="cupy", **options).to(torch.promote_types(dtype, torch.float32))
    found = []
    for split in (False, True, True):
        use(monkeypatch, replace(tile, split=split))
        found.append(of_dsn(node, x, mask if masked else None))
    whole, ours, again = found
    equal(ours, again)
    states = len(whole) - len(list(node.parameters()))
    equal(ours[:states], whole[:states])
    for a, b in zip(ours[states:], whole[states:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("steps", [1, 40, 150])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("in_any_order")
def test_scan(tile: Tile, steps: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = inputs(steps, dtype), torch.tensor([steps, 0, steps // 2 + 1])
    for valid in (None, lengths):
        found = []
        for split in (False, True):
            use(monkeypatch, replace(tile, split=split))
            found.append(of_scan(x, valid))
        equal(*found)


@pytest.mark.usefixtures("on_cpu")
def test_a_gradient_of_the_last_inputs(monkeypatch: pytest.MonkeyPatch, launches: list[Any]) -> None:
    """It changes gradients in another tile, so the backward pass is not split, and reads the states
    that the split forward pass kept.
    """
    node, found = DSN(channels=7, k=6, backend="cupy").double(), []
    for split in (False, True):
        use(monkeypatch, Tile(4, 5, 8, split=split))
        found.append(of_dsn(node, inputs(100, torch.float64), None, of_tail=True))
    equal(*found)
    assert [tensors[-1] is not None for _, tensors in launches] == [False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"k": 9, "tau": 0.3}, {"k": 1}], ids=str)
@pytest.mark.usefixtures("in_any_order")
def test_dsn_without_bounds(
    options: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, launches: list[Any]
) -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=16, backend="cupy", **options), (torch.randn(96, 2, 16) * 3).to(dtype).requires_grad_()
    monkeypatch.setattr(cupy_fast, "schedule", lambda *_: Tile(8, 4, 8, split=True))
    found = []
    for in_words in (cupy_fast.in_words, lambda *_: False):
        monkeypatch.setattr(cupy_fast, "in_words", in_words)
        monkeypatch.setattr(cuda, "PLANS", {})
        with unwritten_memory_is_nan():
            spikes, after = node.functional(x)
            loss = (spikes.float() * torch.linspace(-1, 1, x.numel()).view(x.shape)).sum() + after["h"].sum()
            found.append([spikes, *after.values(), *torch.autograd.grad(loss, [x, *node.parameters()])])
    equal(*found)
    assert [name for name, _ in launches] == ["dsn_fast", "dsn_fast_backward", "dsn", "dsn_backward"]


@pytest.mark.usefixtures("in_any_order")
def test_launches_of_all_sizes_share_the_memory(monkeypatch: pytest.MonkeyPatch, memory: dict[Any, Tensor]) -> None:
    """What an earlier one left there is not taken for what is to come, be it zeros or states."""
    node = DSN(channels=7, backend="cupy")
    use(monkeypatch, Tile(4, 5, 8, split=True))
    sizes = (90, 150, 41, 150, 90)
    shared = [of_dsn(node, inputs(steps, torch.float32), None) for steps in sizes]
    launches = next(iter(memory.values()))[0] >> 32
    assert len(memory) == 1
    assert launches >= 2  # since it grew last
    for steps, ours in zip(sizes, shared, strict=True):
        memory.clear()
        equal(ours, of_dsn(node, inputs(steps, torch.float32), None))


@pytest.mark.usefixtures("on_cpu")
def test_the_kernels_part_of_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Tile(4, 4, 4, split=True))
    report = check_node(
        lambda channels: DSN(channels=channels),
        traits=plugins.get("neuron", "dsn"),
        backends=("cupy",),
        only=CHECKS,
        dtypes=[torch.float64],
    )
    assert report.passed


@pytest.mark.usefixtures("on_cpu")
def test_the_default_schedule(launches: list[Any]) -> None:
    """A long sequence of few channels, as users call it, against torch."""
    torch.manual_seed(0)
    for channels, dtype, name in ((16, torch.bfloat16, "dsn_fast"), (3, torch.float32, "dsn")):
        launches.clear()
        node, x = DSN(channels=channels, backend="cupy"), torch.randn(2_048, 1, channels).to(dtype).requires_grad_()
        spikes = node.functional(x)[0]
        ours = torch.autograd.grad(spikes.float().sum(), [x, *node.parameters()])
        assert [seen for seen, _ in launches] == [name, f"{name}_backward"]
        assert all(tensors[-1] is not None for _, tensors in launches)
        node, y = node.double(), x.detach().double().requires_grad_()
        node.backend = "torch"
        true_spikes = node.functional(y)[0]
        assert (spikes != true_spikes).double().mean() <= 1e-3
        true = torch.autograd.grad(true_spikes.sum(), [y, *node.parameters()])
        for a, b in zip(ours, true, strict=True):
            assert (a.double() - b).norm() <= 1e-2 * b.norm()


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.usefixtures("on_cpu")
def test_compilers_know_the_results(following: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums have one part for each tile, unless the last inputs have a gradient."""
    use(monkeypatch, Tile(4, 5, 8, split=True))
    node, x = DSN(channels=7), inputs(100, torch.float32)
    taps = (None, None, node.weight.detach(), node.bias.detach(), None, 4.0)
    firing = (1, 0.0, 4.0, 0.0)
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.sj_lang.dsn_cuda.default, (x, *taps, *firing), **checks)
    *_, tail, borders = torch.ops.sj_lang.dsn_cuda.default(x, *taps, *firing)
    before = (x, None, tail if following else None, borders)
    torch.library.opcheck(torch.ops.sj_lang.dsn_cuda_backward.default, (*before, x, *taps, *firing), **checks)
    _, sums, _ = torch.ops.sj_lang.dsn_cuda_backward.default(*before, x, *taps, *firing)
    assert sums.shape == (5, 3 if following else 9, 7, 1)


def test_which_sequences_are_split() -> None:
    assert schedule(1_024, 16_384) == Tile(8, 32, 16, split=True)
    assert not schedule(SPLIT_BELOW, 16_384).split
    assert not schedule(1_024, 2_047).split
    for columns in (1, 100, 1_024, 4_095):
        tile = schedule(columns, 16_384)
        blocks, _ = tile.grid(tile.blocks(columns), 16_384)
        assert min(264, 32 * tile.blocks(columns)) <= blocks < 264 + tile.blocks(columns)
    assert cupy_fast.LEAST_COLUMNS // 8 + 1 <= chain.MOST_GROUPS


def test_memory_in_a_graph_is_its_own(monkeypatch: pytest.MonkeyPatch, memory: dict[Any, Tensor]) -> None:
    """A graph may be replayed beside other launches."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda size, dtype, device: zeros(size, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: torch.cuda.ExternalStream)
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        first, second = (chain.memory(2_000, torch.device("cuda", 0)) for _ in range(2))
        assert (first is second) != capturing
        assert bool(memory) != capturing


@pytest.mark.skipif(not compiler(), reason="kernels are run as C++, and there is no C++ compiler here")
@pytest.mark.parametrize("fault", ["!= launch", "receive(state, from, launch)", "+ 2 + turn.group"])
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch, memory: dict[Any, Tensor], tmp_path: Any) -> None:
    """Without the number of the launch, without waiting, or with one counter for all columns."""
    use(monkeypatch, Tile(16, 5, 8, split=True))
    without = {"!= launch": "< 1", "+ 2 + turn.group": "+ 2"}.get(fault, "0")
    path = tmp_path / "kernel.cu"
    path.write_text(cuda.source(dsn.FILE).replace(fault, without))

    def results(module: ModuleType, file: Any) -> list[list[Tensor]]:
        monkeypatch.setattr(module, "FILE", file)
        memory.clear()
        with emulated("shuffled"):
            node = DSN(channels=7, backend="cupy")
            torch.nn.init.ones_(node.weight)
            torch.nn.init.zeros_(node.bias)
            return [of_dsn(node, inputs(150, torch.float32) * scale, None) for scale in (1, 2)]

    true = results(dsn, dsn.FILE)
    try:
        found = results(dsn, path)
    except RuntimeError as error:
        if not any(reason in str(error) for reason in FAILED.values()):
            raise
        return
    assert any(
        not torch.equal(a, b) for one, other in zip(found, true, strict=True) for a, b in zip(one, other, strict=True)
    )
