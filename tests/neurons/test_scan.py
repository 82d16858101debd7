"""The linear recurrence against its definition: values, every gradient, odd sizes,
both ways of computing it.
"""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from sj_lang_neurons.scan import linear, reference
from sj_lang_neurons.scan import torch as scan
from sj_lang_neurons.scan import torch_blocks as rows
from torch import Tensor

pytestmark = pytest.mark.any_line

linear_scan = partial(linear.linear_scan, backend="torch")
# the last is wide enough for the loop
SHAPES = [(1, 3), (7, 5), (9, 1), (63, 3), (170, 16), (33, 2500)]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty is full of NaN, so what an operator forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(steps: int, *shape: int, constant: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    decay = torch.rand(1 if constant else steps, *shape, dtype=dtype, generator=generator)
    drive = torch.randn(steps, *shape, dtype=dtype, generator=generator)
    h_0 = torch.randn(*shape, dtype=dtype, generator=generator)
    return [x.requires_grad_() for x in (decay, drive, h_0)]


def results(out: Tensor, given: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad(out, given, weights)]


@pytest.mark.parametrize("block", [scan.BLOCK, 100], ids=["one block", "many blocks"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], constant: bool, reverse: bool, block: int
) -> None:
    monkeypatch.setattr(scan, "BLOCK", block)
    given = inputs(*shape, constant=constant)
    ours = results(linear_scan(*given, reverse=reverse), given)
    true = results(reference.sequence(*given, reverse=reverse), given)
    for name, a, b in zip(("h", "decay", "drive", "h_0"), ours, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_both_ways_are_used_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(200, 40)
    used: list[str] = []
    for name in ("_loop", "_chunks"):
        original = getattr(rows, name)
        monkeypatch.setattr(rows, name, lambda *a, f=original, n=name: (used.append(n), f(*a))[1])
    chunked = results(linear_scan(*given), given)
    assert "_chunks" in used
    used.clear()
    monkeypatch.setattr(rows, "WIDE", 1)
    looped = results(linear_scan(*given), given)
    assert set(used) == {"_loop"}
    for a, b in zip(chunked, looped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("steps", [1, 31, 32, 100])
def test_nothing_gives_nothing(steps: int, constant: bool, reverse: bool, backend: str) -> None:
    given = inputs(steps, 2, 0, constant=constant)
    out = linear.linear_scan(*given, reverse=reverse, backend=backend)
    assert out.shape == (steps, 2, 0)
    gradients = torch.autograd.grad(out.sum(), given)
    assert [g.shape for g in gradients] == [x.shape for x in given]


def test_axes_without_size_are_broadcast() -> None:
    decay, drive, h_0 = inputs(12, 2, 3)
    narrow = decay[:, :1].detach().requires_grad_()
    wide = narrow.detach().expand(12, 2, 3).clone().requires_grad_()
    a = torch.autograd.grad(linear_scan(narrow, drive, h_0).square().sum(), narrow)[0]
    b = torch.autograd.grad(linear_scan(wide, drive, h_0).square().sum(), wide)[0]
    torch.testing.assert_close(a, b.sum(1, keepdim=True))


def test_layouts_without_a_copy_made_by_the_caller() -> None:
    decay, drive, h_0 = inputs(12, 2, 3)
    turned = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in (decay, drive)]
    ours = results(linear_scan(*turned, h_0), [*turned, h_0])
    for a, b in zip(ours, results(linear_scan(decay, drive, h_0), [decay, drive, h_0]), strict=True):
        assert torch.equal(a, b)


def test_default_start_is_zero() -> None:
    decay, drive, h_0 = inputs(5, 3)
    assert torch.equal(linear_scan(decay, drive), linear_scan(decay, drive, torch.zeros_like(h_0)))


def test_pieces_equal_the_whole() -> None:
    decay, drive, h_0 = inputs(90, 7)
    whole = linear_scan(decay, drive, h_0)
    first = linear_scan(decay[:31], drive[:31], h_0)
    second = linear_scan(decay[31:], drive[31:], first[-1])
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [3, 2500])
def test_long_memory_in_float32(width: int) -> None:
    """Decays near 1 over 4,096 steps: the error stays that of the stored decay,
    about eps / (1 - decay).
    """
    steps = 4096 if width == 3 else 300
    decay = 1 - torch.rand(steps, width, generator=torch.Generator().manual_seed(0)).mul(0.01).add(0.001)
    drive = torch.randn(steps, width, generator=torch.Generator().manual_seed(1))
    true = reference.sequence(decay.double(), drive.double(), torch.zeros(width, dtype=torch.float64))
    error = (linear_scan(decay, drive) - true).abs().max() / true.abs().max()
    assert error < 1e-5


def test_products_too_small_for_float32_are_zero_and_nothing_else_changes() -> None:
    decay = torch.full((256, 4), 1e-4)
    drive = torch.zeros(256, 4)
    drive[0] = drive[100] = 1.0
    out = linear_scan(decay, drive)
    torch.testing.assert_close(out[100:104], torch.tensor([1.0, 1e-4, 1e-8, 1e-12])[:, None].expand(4, 4))
    assert (out[20:100] == 0).all()


def test_nan_stays_in_its_channel_and_after_its_step() -> None:
    decay, drive, h_0 = (x.detach() for x in inputs(60, 6, dtype=torch.float32))
    drive[25, 2] = torch.nan
    out = linear_scan(decay, drive, h_0)
    expected = torch.zeros(60, 6, dtype=torch.bool)
    expected[25:, 2] = True
    assert torch.equal(out.isnan(), expected)


def test_half_precision_is_computed_in_float32() -> None:
    decay, drive, _ = inputs(30, 5, dtype=torch.float32)
    half = linear_scan(decay.bfloat16(), drive.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, linear_scan(decay.bfloat16().float(), drive.bfloat16().float()))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(constant: bool, reverse: bool) -> None:
    given = inputs(20, 3, constant=constant)
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, reverse=reverse), given)


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("constant", [False, True])
def test_operator_is_registered_completely(constant: bool) -> None:
    torch.use_deterministic_algorithms(False)  # the fake operators of opcheck do not like NaN
    given = inputs(20, 3, constant=constant)
    torch.library.opcheck(torch.ops.sj_lang.linear_scan.default, (*given, False))
    a, u, h = (x.detach() for x in given)
    torch.library.opcheck(torch.ops.sj_lang.linear_scan_backward.default, (u, a, u, h, True))


def test_compiles_without_a_break() -> None:
    given = inputs(20, 3)
    compiled = torch.compile(linear_scan, fullgraph=True, backend="aot_eager")
    for a, b in zip(results(compiled(*given), given), results(linear_scan(*given), given), strict=True):
        assert torch.equal(a, b)


def test_nothing_but_its_inputs_and_output_is_kept_for_the_backward_pass() -> None:
    given = inputs(500, 8)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        linear_scan(*given)
    assert sum(kept.values()) <= 2.1 * given[1].nbytes


@pytest.mark.parametrize(
    ("decay", "drive", "h_0", "message"),
    [
        ((0, 3), (0, 3), None, r"T >= 1, got shape \(0, 3\)"),
        ((4, 3), (5, 3), None, r"\(5, 3\), got \(4, 3\)"),
        ((3,), (5, 3), None, r"\(5, 3\), got \(3,\)"),
        ((5, 3), (5, 3), (4,), r"\(3,\), got \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit(
    decay: tuple[int, ...], drive: tuple[int, ...], h_0: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(torch.ones(decay), torch.ones(drive), None if h_0 is None else torch.ones(h_0))


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="one device, got meta, cpu"):
        linear_scan(torch.ones(3, 2, device="meta"), torch.ones(3, 2))
