"""BPSN's spikes on a grid: against the equations, with every gradient; what fits an input;
what is refused.
"""

import re
from itertools import cycle, product
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN
from sj_lang_neurons.firing import Fused, Rect
from test_bpsn import built, equations, gradients, masks, parameters, stepped
from torch import Tensor

GRIDS: dict[str, dict[str, Any]] = {
    "ternary": {"spikes": "ternary"},
    "ternary with offset": {"spikes": "ternary", "offset": True},
    "integer": {"spikes": "integer", "levels": 3},
    "unsigned": {"spikes": "integer", "levels": 4, "signed": False, "offset": True},
    "binary with offset": {"offset": True},
}
EVERY_GRID = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
#: every grid with every variant and direction; stored or not and the backends in turn, all pairs
TURNS = [
    pytest.param(grid, variant, direction, stored, backend, id=f"{name}-{variant}-{direction}-{stored}-{backend}")
    for ((name, grid), variant, direction), (stored, backend) in zip(
        product(GRIDS.items(), "RAG", ("both", "forward", "backward")),
        cycle(product((False, True), ("torch", "numba"))),
        strict=False,
    )
]


@pytest.mark.any_line
@pytest.mark.parametrize(("grid", "variant", "direction", "stored", "backend"), TURNS)
def test_equals_the_equations_with_every_gradient(
    grid: dict[str, Any], variant: str, direction: str, stored: bool, backend: str
) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    node = built(variant, direction, store_v_seq=stored, backend=backend, **grid)
    for name, mask in masks(40).items():
        for trailing in ((), (2, 1)):
            x = (2 * torch.randn(40, 3, 5, *trailing, dtype=torch.float64)).requires_grad_()
            padded = x if mask is None else x.masked_fill(~mask.view(40, 3, *(1,) * (x.dim() - 2)), float("nan"))
            node.reset()
            spikes = node(padded, mask=mask)
            want_spikes, want_potentials = equations(node, padded, mask)
            assert torch.equal(spikes, want_spikes), name
            assert set(want_spikes.unique().tolist()) == set(range(node.spike_range[0], node.spike_range[1] + 1))
            potentials = node.v_seq if stored else torch.zeros_like(spikes)
            assert potentials is not None
            if stored:
                torch.testing.assert_close(potentials, want_potentials, rtol=1e-11, atol=1e-12)
            else:
                want_potentials = potentials
            want = gradients(node, x, want_spikes, want_potentials)
            torch.testing.assert_close(gradients(node, x, spikes, potentials), want, rtol=1e-9, atol=1e-10)
            assert all(bool(gradient.any()) for gradient in want.values())


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("variant", ["R", "A", "G"])
@EVERY_GRID
def test_single_steps_and_pieces_are_the_sequence(grid: dict[str, Any], variant: str, backend: str) -> None:
    node = built(variant, "forward", backend=backend, **grid)
    x = 2 * torch.randn(20, 3, 5, dtype=torch.float64)
    whole, _ = node.functional(x)
    first, state = node.functional(x[:7])
    second, _ = node.functional(x[7:], state)
    assert torch.equal(torch.cat((first, second)), whole)
    assert torch.equal(stepped(node, x, None)[0], whole)
    node.step_mode = "s"
    assert torch.equal(torch.stack([node(x_t) for x_t in x]), whole)


@pytest.mark.parametrize(
    ("low", "high", "margin"), [(-1, 1, 0.5), (0, 3, 0.5), (-2, 2, 0.0), (0, 1, 0.0), (-3, 1, 0.25)]
)
def test_rect_rounds_halves_to_even_and_lets_the_gradient_through_its_window(
    low: int, high: int, margin: float
) -> None:
    u = torch.cat((torch.arange(-5.0, 5.01, 0.25), torch.tensor([-torch.inf, torch.inf]))).requires_grad_()
    fire = Rect(low, high, margin)
    spikes = fire(u)
    assert torch.equal(spikes, u.round().clamp(low, high))
    (gradient,) = torch.autograd.grad(spikes.sum(), u)
    assert torch.equal(gradient, ((u >= low - margin) & (u <= high + margin)).float())
    fire.set_spiking_mode(False)
    off_the_ends = (u != low - margin) & (u != high + margin)
    assert torch.equal(torch.autograd.grad(fire(u).sum(), u)[0][off_the_ends], gradient[off_the_ends])
    assert fire(torch.tensor(float("nan"))).isnan()


@EVERY_GRID
def test_the_window_is_that_of_the_grid(grid: dict[str, Any]) -> None:
    """A margin of 1/2 lets the gradients of binary spikes explode."""
    node = BPSN(channels=2, **grid)
    low, high = node.spike_range
    assert node.firing.fused() == Fused(1, float(high), float(low), 0.0 if high - low == 1 else 0.5)
    assert node.levels == max(abs(low), high)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@EVERY_GRID
def test_nan_stays_nan_and_stays_in_its_column(grid: dict[str, Any], backend: str) -> None:
    x = torch.randn(90, 3, 5, dtype=torch.float64)
    x[40, 1, 2] = float("nan")
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[:, 1, 2] = True
    assert torch.equal(built("R", "both", backend=backend, **grid)(x).isnan(), expected)


@EVERY_GRID
def test_a_threshold_that_comes_to_0_gives_finite_gradients(grid: dict[str, Any]) -> None:
    torch.manual_seed(0)
    node, x = BPSN(channels=6, **grid), torch.randn(50, 2, 6, requires_grad=True)
    with torch.no_grad():
        node.threshold.fill_(-200.0)
    spikes = node(x)
    spikes.sum().backward()
    assert spikes.isfinite().all()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in (x, *node.parameters()))


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize("variant", ["A", "G"])
@EVERY_GRID
def test_fit_makes_it_the_grid_over_its_input(grid: dict[str, Any], variant: str, direction: str) -> None:
    node = built(variant, direction, **grid)
    step = 0.1 + torch.rand(5, dtype=torch.float64)
    offset = torch.randn(5, dtype=torch.float64) if node.offset is not None else torch.zeros(5, dtype=torch.float64)
    node.fit(step, offset)
    x = 3 * torch.randn(50, 2, 5, dtype=torch.float64)
    assert torch.equal(node(x), ((x - offset) / step).round().clamp(*node.spike_range))
    torch.testing.assert_close(parameters(node).V, step)


@pytest.mark.parametrize(
    ("options", "step", "offset", "said"),
    [
        ({}, [1.0, 1.0], [0.0, 0.0], 'spikes="binary" without an offset have no grid'),
        ({"spikes": "ternary", "variant": "R"}, [1.0, 1.0], [0.0, 0.0], "take variant G"),
        ({"spikes": "ternary"}, [1.0, 0.0], [0.0, 0.0], "step must be above 0, the smallest is 0.0"),
        ({"spikes": "ternary"}, [1.0], [0.0, 0.0], "step must have shape (2,), got (1,)"),
        ({"spikes": "ternary"}, [1.0, 1.0], [0.0, float("nan")], "offset must be finite, got [0.0, nan]"),
        ({"spikes": "ternary"}, [1.0, 1.0], [0.0, 0.5], "no offset; build it with offset=True, or give zeros"),
    ],
)
def test_fit_refuses_what_it_cannot_do(
    options: dict[str, Any], step: list[float], offset: list[float], said: str
) -> None:
    node = BPSN(channels=2, **{"variant": "G", **options})
    before = {name: value.clone() for name, value in node.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(said)):
        node.fit(torch.tensor(step), torch.tensor(offset))
    assert all(torch.equal(value, before[name]) for name, value in node.state_dict().items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spikes": "analogue"}, "no spikes 'analogue'; valid: binary, integer, ternary"),
        ({"spikes": "integer"}, 'levels is None; spikes="integer" needs the largest spike'),
        ({"spikes": "integer", "levels": 0}, 'levels is 0; spikes="integer" needs the largest spike'),
        ({"spikes": "integer", "levels": 1.5}, "a whole number of at least 1"),
        ({"spikes": "ternary", "levels": 1}, 'levels=1 needs spikes="integer", got spikes="ternary"'),
        ({"levels": 2}, 'levels=2 needs spikes="integer", got spikes="binary"'),
        ({"spikes": "ternary", "signed": False}, 'signed=False needs spikes="integer", got spikes="ternary"'),
        ({"signed": False}, 'signed=False needs spikes="integer", got spikes="binary"'),
        ({"variant": "K", "spikes": "ternary"}, 'variant "K" fires binary spikes without an offset'),
        ({"variant": "K", "offset": True}, 'variant "K" fires binary spikes without an offset'),
        ({"surrogate_function": "ATan", "offset": True}, "a surrogate_function fires binary spikes without an offset"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        BPSN(channels=3, **options)


def test_without_a_grid_nothing_is_new() -> None:
    node = BPSN(channels=3)
    assert (node.spike_range, node.levels, node.offset) == ((0, 1), 1, None)
    assert "offset" not in node.state_dict()
    assert type(node.surrogate_function).__name__ == "ATan"


def test_it_says_what_it_fires() -> None:
    assert "spikes=(-3, 3), offset=True" in repr(BPSN(channels=3, spikes="integer", levels=3, offset=True))


@EVERY_GRID
def test_gradients_by_torch_func(grid: dict[str, Any]) -> None:
    node, x = built("G", "both", backend="torch", **grid), torch.randn(6, 2, 5, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return node.functional(x)[0].sum()

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(x), torch.autograd.grad(loss(leaf), leaf)[0])
    torch.func.vmap(torch.func.grad(loss))(x[None])


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_compiled_operator_is_registered_completely() -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    x = torch.randn(5, 2, 3, 1, requires_grad=True)
    terms = [torch.rand(3).requires_grad_() for _ in range(6)]
    states = [torch.rand(2, 3, 1).requires_grad_(), torch.rand(2, 3).requires_grad_()]
    g0, threshold, lf, gf, lb, gb = terms
    arguments = (x, g0, threshold, lf, gf, lb, gb, None, *states, torch.tensor([5, 3]), True)
    torch.library.opcheck(torch.ops.sj_lang.bpsn_numba.default, (*arguments, *Fused(1, 2.0, -2.0, 0.5)))
