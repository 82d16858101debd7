"""The scan's CUDA kernel against the definition: values, every gradient, lengths,
layouts, precisions, schedules.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_neurons.scan import cupy, reference
from sj_lang_neurons.scan.cuda_layout import Tile, schedule
from sj_lang_neurons.scan.cupy import log_scan
from torch import Tensor

from sj_lang.neuron import state_dtype
from sj_lang.testing.kernels import unwritten_memory_is_nan

pytestmark = pytest.mark.any_line

TILES = [Tile(32, 1, 8), Tile(32, 4, 2), Tile(8, 16, 3)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(params=TILES, ids=str)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tile:
    monkeypatch.setattr(cupy, "schedule", lambda columns, steps: request.param)
    return request.param


def test_few_columns_fill_a_gpu() -> None:
    """1,024 make 128 blocks for the 132 multiprocessors of an H200; long sequences are split."""
    expected = {1_024: Tile(8, 32, 8), 2_112: Tile(16, 32, 8), 4_096: Tile(32, 16, 8), 16_384: Tile(32, 4, 8)}
    assert {columns: schedule(columns, 2_047) for columns in expected} == expected
    assert expected[1_024].blocks(1_024) == 128
    split = Tile(8, 32, 16, split=True)
    expected = {1_024: split, 2_112: split, 4_096: Tile(32, 16, 8), 16_384: Tile(32, 4, 8)}
    assert {columns: schedule(columns, 16_384) for columns in expected} == expected


def inputs(steps: int, *step: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    g = -torch.rand(steps, *step, generator=generator, dtype=torch.float64).square()
    u, h_0 = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((steps, *step), step))
    return [
        g.to(dtype).requires_grad_(),
        u.to(dtype).requires_grad_(),
        h_0.to(state_dtype(g.to(dtype))).requires_grad_(),
    ]


def definition(g: Tensor, u: Tensor, h_0: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sequence by sequence, of its valid steps."""
    g, u, h_0 = g.double(), u.double(), h_0.double()
    h, last = torch.zeros_like(u), []
    for b in range(u.shape[1]):
        n = len(u) if lengths is None else int(lengths[b])
        if n:
            h = h.clone()
            h[:n, b] = reference.sequence(g[:n, b].exp(), u[:n, b], h_0[b])
        last.append(h[n - 1, b] if n else h_0[b])
    return h, torch.stack(last)


def results(function: Callable[..., Any], given: list[Tensor], *more: Any) -> list[Tensor]:
    """Outputs, and gradients of a functional of both."""
    h, last = function(*given, *more)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (h, last)]
    loss = sum((x.double() * w.to(given[1].dtype)).sum() for x, w in zip((h, last), weights, strict=True))
    return [h, last, *torch.autograd.grad(loss, given)]


def compare(ours: list[Tensor], true: list[Tensor], tolerance: float) -> None:
    for name, a, b in zip(("h", "last", "grad g", "grad u", "grad h_0"), ours, true, strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        error = float((a.detach().double() - b.detach()).abs().max())
        assert error <= tolerance * scale, f"{name}: {error}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (8, 2, 16), (50, 3, 11)], ids=str)
@pytest.mark.usefixtures("on_cpu", "tile")
def test_equals_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = inputs(*shape, dtype=dtype)
    with unwritten_memory_is_nan():
        ours = results(log_scan, given)
    compare(ours, results(definition, given), TOLERANCE[dtype])
    assert [x.dtype for x in ours] == [dtype, state_dtype(given[0]), dtype, dtype, state_dtype(given[0])]


@pytest.mark.usefixtures("in_any_order", "tile")
def test_lengths_in_any_order_of_threads() -> None:
    given = inputs(50, 5, 7)
    lengths = torch.tensor([50, 0, 1, 33, 48])
    with unwritten_memory_is_nan():
        ours = results(log_scan, given, lengths)
    compare(ours, results(definition, given, lengths), 1e-12)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels first": lambda x: x.movedim(2, 0).contiguous().movedim(0, 2),
    "gaps": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(11, 3, 5), (11, 2, 3, 4)], ids=["TBC", "TBCS"])
@pytest.mark.usefixtures("on_cpu")
def test_layouts_are_read_as_they_are(
    shape: tuple[int, ...], layout: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(*shape)
    want = results(log_scan, given)
    copies: list[Any] = []
    monkeypatch.setattr(
        Tensor, "contiguous", lambda x, *a, f=Tensor.contiguous: (copies.append(x.dim() > 3), f(x, *a))[1]
    )
    ours = results(lambda g, u, h_0: log_scan(layout(g), layout(u), h_0), given)
    for a, b in zip(ours, want, strict=True):
        assert torch.equal(a, b)
    if layout is LAYOUTS["batch first"]:
        assert log_scan(*(layout(x.detach()) for x in given[:2]), given[2])[0].stride() == layout(given[1]).stride()


@pytest.mark.usefixtures("on_cpu")
def test_decay_is_not_rounded_to_half_precision() -> None:
    """exp(-0.001) is 1 in bfloat16; over 3,000 steps of it, e^-3 is left."""
    g = torch.full((3000, 1, 2), -0.001, dtype=torch.bfloat16)
    _, last = log_scan(g, torch.zeros_like(g), torch.ones(1, 2))
    torch.testing.assert_close(last, g.float().sum(0).exp())


@pytest.mark.usefixtures("on_cpu")
def test_nan_stays_in_its_channel_and_after_its_step() -> None:
    g, u, h_0 = (x.detach() for x in inputs(60, 1, 6))
    u[25, 0, 2] = torch.nan
    expected = torch.zeros(60, 1, 6, dtype=torch.bool)
    expected[25:, 0, 2] = True
    assert torch.equal(log_scan(g, u, h_0)[0].isnan(), expected)


@pytest.mark.usefixtures("on_cpu")
def test_nothing_to_do() -> None:
    h, last = log_scan(torch.zeros(3, 0, 4), torch.zeros(3, 0, 4), torch.zeros(0, 4))
    assert h.shape == (3, 0, 4)
    assert last.shape == (0, 4)


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.usefixtures("on_cpu")
def test_operators_are_registered_completely() -> None:
    g, u, h_0 = (x.unsqueeze(-1).detach() for x in inputs(9, 2, 3))
    leaves = [x.clone().requires_grad_() for x in (g, u, h_0.squeeze(-1))]
    lengths = torch.tensor([9, 4])
    torch.library.opcheck(torch.ops.sj_lang.log_scan_cuda.default, (*leaves, lengths))
    torch.library.opcheck(
        torch.ops.sj_lang.log_scan_cuda_backward.default, (u, h_0.squeeze(-1), g, u, h_0.squeeze(-1), lengths)
    )
    assert torch.autograd.gradcheck(lambda *x: log_scan(*x, lengths), inputs(9, 2, 3))


@pytest.mark.usefixtures("on_cpu")
def test_compiles_without_a_break() -> None:
    given = inputs(20, 2, 3)
    compiled = torch.compile(log_scan, fullgraph=True, backend="aot_eager")
    for a, b in zip(results(compiled, given), results(log_scan, given), strict=True):
        assert torch.equal(a, b)


def test_schedule_has_the_threads_and_no_idle_runs() -> None:
    for columns in (1, 768, 1024, 2048, 8192, 24_576, 32_768, 98_304):
        for steps in (1, 32, 128, 2048, 16_384):
            tile = schedule(columns, steps)
            assert tile.columns * tile.runs <= 1024
            assert tile.length < 4 * max(8, steps)
            if steps >= 2048:
                assert columns * tile.runs >= min(32_768, 32 * columns)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g, u, h: (g[1:], u, h), ValueError, r"got \(3, 2, 3\), \(4, 2, 3\) and \(2, 3\)"),
        (lambda g, u, h: (g[:, 0], u[:, 0], h), ValueError, r"h_0 is \[B, C, \.\.\.\], got \(4, 3\)"),
        (lambda g, u, h: (g, u, h[:1]), ValueError, r"and \(1, 3\)"),
        (lambda g, u, h: (g, u.float(), h), TypeError, "got torch.float64, torch.float32 and torch.float64"),
        (lambda g, u, h: (g.int(), u.int(), h), TypeError, "got torch.int32"),
    ],
)
def test_bad_input(change: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        log_scan(*change(*(x.detach() for x in inputs(4, 2, 3))))


def test_on_the_cpu_it_is_refused() -> None:
    with pytest.raises(RuntimeError, match="log_scan: needs a CUDA tensor, got one on cpu"):
        log_scan(*inputs(4, 2, 3))
