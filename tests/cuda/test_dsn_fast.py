"""DSN's kernel without bounds, run on the CPU: bit for bit that with bounds, and only if it may."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_neurons import DSN
from sj_lang_neurons.dsn import cupy_fast
from torch import Tensor

from sj_lang import cuda
from sj_lang.compat import surrogates
from sj_lang.testing.emulate import compiler, emulated
from sj_lang.testing.kernels import unwritten_memory_is_nan

SHAPE = (96, 2, 64)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of kernels; small shapes may go without bounds."""
    names: list[str] = []
    run = cuda.Plan.__call__

    def note(plan: cuda.Plan, *tensors: Tensor | None) -> None:
        names.append(plan.name)
        run(plan, *tensors)

    monkeypatch.setattr(cuda.Plan, "__call__", note)
    monkeypatch.setattr(cupy_fast, "LEAST_COLUMNS", 64)
    return names


def inputs(dtype: torch.dtype, shape: tuple[int, ...] = SHAPE) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(shape) * 3).to(dtype).requires_grad_()


def results(node: DSN, x: Tensor, of_state: bool = False) -> list[Tensor]:
    """Spikes, states and gradients, with or without one of the last potential."""
    with unwritten_memory_is_nan():
        spikes, state = node.functional(x)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in (spikes, state["h"])]
        outputs = [spikes, state["h"]] if of_state else [spikes]
        gradients = torch.autograd.grad(outputs, [x, *node.parameters()], weights[: len(outputs)])
    return [spikes.detach(), *(value.detach() for value in state.values()), *gradients]


def bounded(monkeypatch: pytest.MonkeyPatch, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(cupy_fast, "in_words", lambda *_: False)
        patch.setattr(cuda, "PLANS", {})
        return run()


def equal(ours: list[Tensor], true: list[Tensor]) -> None:
    for a, b in zip(ours, true, strict=True):
        assert torch.equal(a, b)
        assert not b.isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 1, "n": 1, "surrogate_function": "ATan"}, {"k": 9}, {"tau": 0.3}, {"tau": 1.0, "k": 2}],
    ids=str,
)
@pytest.mark.usefixtures("on_cpu")
def test_equals_the_kernel_with_bounds(
    options: dict[str, Any], dtype: torch.dtype, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, x = DSN(channels=64, backend="cupy", **options), inputs(dtype)
    for of_state in (False, True):
        ours = results(node, x, of_state)
        assert launched[-2:] == ["dsn_fast", "dsn_fast_backward"]
        equal(ours, bounded(monkeypatch, lambda: results(node, x, of_state)))  # noqa: B023
        assert launched[-2:] == ["dsn", "dsn_backward"]


@pytest.mark.usefixtures("in_any_order")
def test_in_any_order_of_threads(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    node, x = DSN(channels=64, backend="cupy"), inputs(torch.bfloat16)
    ours = results(node, x)
    assert launched == ["dsn_fast", "dsn_fast_backward"]
    equal(ours, bounded(monkeypatch, lambda: results(node, x)))


@pytest.mark.parametrize("kind", [name for name in ("Erf", "PiecewiseQuadratic", "SuperSpike") if name in surrogates()])
@pytest.mark.usefixtures("on_cpu")
def test_each_surrogate(kind: str, launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    node, x = DSN(channels=64, n=1, surrogate_function=kind, backend="cupy"), inputs(torch.bfloat16, (32, 1, 64))
    ours = results(node, x)
    assert launched == ["dsn_fast", "dsn_fast_backward"]
    equal(ours, bounded(monkeypatch, lambda: results(node, x)))


@pytest.mark.usefixtures("on_cpu")
def test_one_run_and_batch_major_memory(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_fast, "PLAIN", 32)
    node = DSN(channels=64, backend="cupy")
    x = inputs(torch.bfloat16, (2, 96, 64)).detach().transpose(0, 1).requires_grad_()
    ours = results(node, x)
    assert launched == ["dsn_fast", "dsn_fast_backward"]
    assert ours[0].stride() == x.stride()
    equal(ours, bounded(monkeypatch, lambda: results(node, x)))


@pytest.mark.usefixtures("launched")
def test_against_float64_with_the_errors_of_a_gpu() -> None:
    if not compiler():
        pytest.skip("there is no C++ compiler here")
    x = inputs(torch.bfloat16, (512, 1, 64))
    with emulated(rough=True):
        node = DSN(channels=64, backend="cupy")
        ours = results(node, x)
    node = node.double()
    node.backend = "torch"
    true = results(node, x.detach().double().requires_grad_())
    assert (ours[0].double() != true[0]).double().mean() <= 1e-3
    for a, b in zip(ours[3:], true[3:], strict=True):
        assert (a.double() - b).norm() <= 1e-2 * b.norm()


@pytest.mark.parametrize(
    ("change", "forward", "backward"),
    [
        (lambda x: x.float(), "dsn", "dsn_backward"),
        (lambda x: x[:95], "dsn", "dsn_backward"),
        (lambda x: x.transpose(1, 2)[:, :, :1].expand(96, 64, 2), "dsn", "dsn_backward"),
        (lambda x: x[..., None], "dsn", "dsn_backward"),
        (lambda x: torch.cat((x, x), 2)[..., 1:65], "dsn", "dsn_backward"),
        (lambda x: torch.cat((x, x), 2)[..., :65].contiguous()[..., :64], "dsn", "dsn_backward"),
        (lambda x: torch.cat((x, x), 2)[..., 2:66], "dsn_fast", "dsn_fast_backward"),
    ],
    ids=["float32", "a part of a tile", "expanded channels", "places", "odd place", "odd stride", "even place"],
)
@pytest.mark.usefixtures("on_cpu")
def test_what_needs_bounds(change: Any, forward: str, backward: str, launched: list[str]) -> None:
    x = change(inputs(torch.bfloat16)).detach().requires_grad_()
    node = DSN(channels=x.shape[2], backend="cupy")
    spikes = node.functional(x)[0]
    spikes.backward(torch.ones(spikes.shape, dtype=spikes.dtype))
    assert launched == [forward, backward]


@pytest.mark.usefixtures("on_cpu")
def test_states_masks_and_expanded_gradients_need_bounds(launched: list[str]) -> None:
    node, x = DSN(channels=64, backend="cupy"), inputs(torch.bfloat16)
    _, state = node.functional(x)
    node.functional(x, state)
    node.functional(x, mask=torch.arange(96)[:, None] < torch.tensor([96, 40]))
    assert launched == ["dsn_fast", "dsn", "dsn"]
    launched.clear()
    node.functional(x)[0].sum().backward()
    spikes, state = node.functional(x)
    (spikes.float().square().sum() + state["tail"].sum()).backward()
    assert launched == ["dsn_fast", "dsn_backward"] * 2
