"""BPSN's kernels where a block passes over several sequences with the same weights."""

from typing import Any

import pytest
import torch
from kernel_checks import gradients
from sj_lang_neurons import BPSN
from sj_lang_neurons.bpsn import cupy
from sj_lang_neurons.scan.cuda_layout import Tile

from sj_lang import cuda

pytestmark = pytest.mark.any_line


@pytest.mark.parametrize("options", [{}, {"direction": "forward"}, {"variant": "A"}], ids=str)
@pytest.mark.parametrize("lengths", [None, [40, 40, 2, 40, 40], [40, 0, 0, 33, 33]], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_a_block_passes_over_sequences_in_turn(
    lengths: list[int] | None, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes and gradients are those of blocks with one sequence each, whatever the lengths."""
    monkeypatch.setattr(cupy, "schedule", lambda columns, steps: Tile(8, 2, 8))
    torch.manual_seed(0)
    node = BPSN(channels=3, **options, backend="cupy").double()
    x = torch.randn(40, 5, 3, dtype=torch.float64).mul(2).requires_grad_()
    mask = None if lengths is None else torch.arange(40)[:, None] < torch.tensor(lengths)
    results = []
    for sequences in (1, 2, 5):
        monkeypatch.setattr(cupy, "sequences_of", lambda blocks, batch, sequences=sequences: sequences)
        cuda.PLANS.clear()
        spikes, after = node.functional(x, mask=mask)
        results.append([spikes.detach(), *gradients(node, x, spikes, *after.values())])
    for others in results[1:]:
        assert torch.equal(others[0], results[0][0])
        for a, b in zip(others[1:], results[0][1:], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, float(b.abs().max())))


@pytest.mark.usefixtures("in_any_order")
def test_sequences_with_states_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has weights of its own, and gradients of its state."""
    monkeypatch.setattr(cupy, "schedule", lambda columns, steps: Tile(8, 2, 8))
    torch.manual_seed(0)
    node, mask = BPSN(channels=3, direction="forward").double(), torch.arange(40)[:, None] < torch.tensor([40, 0, 19])
    x = torch.randn(40, 3, 3, dtype=torch.float64).mul(2).requires_grad_()
    state = {"numerator": torch.randn(3, 3).double(), "denominator": 1 + torch.rand(3, 3).double()}
    for value in state.values():
        value.requires_grad_()
    results = []
    monkeypatch.setattr(cupy, "sequences_of", lambda blocks, batch: 3)
    for node.backend in ("torch", "cupy"):
        spikes, after = node.functional(x, state, mask)
        outputs = [spikes, *after.values()]
        weights = [torch.linspace(-1, 1, y.numel()).double().view(y.shape) for y in outputs]
        leaves = [x, *state.values(), *node.parameters()]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.detach().abs().max())))


def test_how_many_sequences_a_block_takes() -> None:
    """Few where blocks are few."""
    expected = {(24 * 32, 32): 2, (32 * 8 * 16, 8): 8, (24 * 256, 256): 8, (1, 1): 1, (10_000, 3): 2}
    assert {case: cupy.sequences_of(*case) for case in expected} == expected
