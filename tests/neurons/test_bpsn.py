"""BPSN against its equations: spikes, potentials, states and every gradient, for any shape,
mask and way of cutting.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN
from sj_lang_neurons.bpsn import reference
from sj_lang_neurons.bpsn import torch_tiles as tiles
from sj_lang_neurons.bpsn.inputs import BPSNTerms
from sj_lang_neurons.bpsn.torch import potential
from sj_lang_neurons.firing import Firing
from torch import Tensor

from sj_lang import compat, plugins
from sj_lang.testing import check_node

VARIANTS, DIRECTIONS = ("R", "A", "G", "K"), ("both", "forward", "backward")
CASES = [(variant, direction) for variant in VARIANTS for direction in DIRECTIONS]


def built(variant: str, direction: str, channels: int = 5, **options: Any) -> BPSN:
    """A node in float64 whose parameters are all different; some decays are slow."""
    torch.manual_seed(7)
    node = BPSN(channels=channels, variant=variant, direction=direction, v_threshold=0.6, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in node.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        for decay in (node.decay_f, node.decay_b):
            if decay is not None:
                decay[0] = 6.0
    return node


def parameters(node: BPSN, dtype: torch.dtype = torch.float64) -> reference.Parameters:
    def cast(p: Tensor | None, squash: bool = False) -> Tensor | None:
        return None if p is None else p.to(dtype).sigmoid() if squash else p.to(dtype)

    return reference.Parameters(
        lf=cast(node.decay_f, squash=True),
        lb=cast(node.decay_b, squash=True),
        g0=node.gain_0.to(dtype),
        gf=cast(node.gain_f),
        gb=cast(node.gain_b),
        rho=cast(node.lateral, squash=True),
        V=torch.nn.functional.softplus(node.threshold.to(dtype)),
        o=None if not node.has_grid else torch.zeros(()) if node.offset is None else node.offset.to(dtype),
    )


def firing(node: BPSN) -> Callable[[Tensor], Tensor]:
    """What the reference fires with."""
    if not node.has_grid:
        return node.surrogate_function
    low, high = node.spike_range
    return lambda u: reference.rect(u, low, high, 0.0 if (low, high) == (0, 1) else 0.5)


def equations(node: BPSN, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Spikes and potentials of the reference for x [T, B, C, ...], which knows [T, B, C] only."""
    folded = x.flatten(3).movedim(2, 3).flatten(1, 2) if x.dim() > 3 else x
    spread = None if mask is None else mask.repeat_interleave(len(folded[0]) // x.shape[1], 1)
    out = reference.sequence(
        folded, parameters(node, x.dtype), firing(node), variant=node.variant, kappa=node.kappa, mask=spread
    )
    if x.dim() == 3:
        return out
    shape = (*x.shape[:2], *x.shape[3:], x.shape[2])
    return out[0].view(shape).movedim(-1, 2), out[1].view(shape).movedim(-1, 2)


def stepped(node: BPSN, x: Tensor, state: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The reference's single steps in the terms of `functional`."""
    p = parameters(node, x.dtype)
    now = reference.initial(x[0])
    if state:
        # A has no denominator: there its past is absent only where nothing has come in yet
        denominator = state.get("denominator", (state["numerator"] != 0).to(now.D))
        v = (state["count"] + 0.5) % 1 if "count" in state else now.v
        now = reference.BPSNState(state["numerator"], denominator, v)
    spikes = []
    for x_t in x.unbind(0):
        s, _, now = reference.step(x_t, now, p, firing(node), variant=node.variant, kappa=node.kappa)
        spikes.append(s)
    after = {"numerator": now.P, "denominator": now.D, "count": (now.v + 0.5) % 1}
    return torch.stack(spikes), {name: after[name] for name in node.state_shapes(x.shape[1:])}


def gradients(node: BPSN, x: Tensor, spikes: Tensor, potentials: Tensor, **more: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(2, *spikes.shape, dtype=spikes.dtype, generator=torch.Generator().manual_seed(1))
    total = (spikes * weights[0]).sum() + (potentials * weights[1]).sum()
    leaves = {"x": x, **dict(node.named_parameters()), **more}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in zip(leaves, found, strict=True)}


def masks(steps: int) -> dict[str, Tensor | None]:
    t, b = torch.arange(steps)[:, None], torch.arange(3)
    return {
        "none": None,
        "right": t < (steps - 1 - 2 * b).clamp(min=0),
        "left": t >= (steps // 2) * b,
        "holes": (t * 5 + b) % 3 != 0,
    }


@pytest.mark.parametrize("cut", [None, (40, 4)], ids=["one piece", "many tiles and blocks"])
@pytest.mark.parametrize("steps", [1, 2, 7, 90])
@pytest.mark.parametrize(("variant", "direction"), CASES)
def test_equals_the_equations_with_every_gradient(
    monkeypatch: pytest.MonkeyPatch, variant: str, direction: str, steps: int, cut: tuple[int, int] | None
) -> None:
    if cut:
        monkeypatch.setattr(tiles, "BLOCK", cut[0])
        monkeypatch.setattr(tiles, "COLUMNS", cut[1])
    node = built(variant, direction, store_v_seq=True)
    # at 90 steps fast decays are settled in the middle: weights of the interior
    with torch.no_grad():
        for decay in (node.decay_f, node.decay_b):
            if decay is not None and steps == 90:
                decay[0] = -1.0
    for name, mask in masks(steps).items():
        for trailing in ((), (2, 1)):
            x = (2 * torch.randn(steps, 3, 5, *trailing, dtype=torch.float64)).requires_grad_()
            given = x if mask is None else x.masked_fill(~mask.view(steps, 3, *(1,) * (x.dim() - 2)), float("nan"))
            node.reset()
            spikes, potentials = node(given, mask=mask), node.v_seq
            assert potentials is not None
            want = equations(node, given, mask)
            assert torch.equal(spikes, want[0]), name
            torch.testing.assert_close(potentials, want[1], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(
                gradients(node, x, spikes, potentials), gradients(node, x, *want), rtol=1e-9, atol=1e-10
            )


@pytest.mark.parametrize(("variant", "direction"), CASES)
def test_a_last_tile_that_is_narrower_has_no_more_rows_than_the_memory(
    monkeypatch: pytest.MonkeyPatch, variant: str, direction: str
) -> None:
    """Sequences in tiles of 3 and 2: a block would be 2 steps of the first and 4 of the second,
    in one memory.
    """
    monkeypatch.setattr(tiles, "BLOCK", 40)
    monkeypatch.setattr(tiles, "COLUMNS", 15)
    node = built(variant, direction, store_v_seq=True)
    x = (2 * torch.randn(11, 5, 5, dtype=torch.float64)).requires_grad_()
    lengths = torch.tensor([11, 3, 7, 5, 10])
    for mask in (None, torch.arange(11)[:, None] < lengths):
        node.reset()
        spikes, potentials = node(x, mask=mask), node.v_seq
        assert potentials is not None
        want = equations(node, x, mask)
        assert torch.equal(spikes, want[0])
        torch.testing.assert_close(
            gradients(node, x, spikes, potentials), gradients(node, x, *want), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_equal_the_sequence_in_the_reference(variant: str) -> None:
    node = built(variant, "forward")
    x = 2 * torch.randn(40, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(stepped(node, x, None)[0], equations(node, x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(("variant", "direction"), CASES)
def test_the_operator_runs_and_equals_the_equations_in_the_kit(variant: str, direction: str) -> None:
    """The kit's other checks run on every registered neuron; these need to know BPSN."""
    forward = direction == "forward"
    report = check_node(
        lambda channels: BPSN(channels=channels, variant=variant, direction=direction),  # type: ignore[arg-type]
        traits={**plugins.get("neuron", "bpsn").traits, "causal": forward, "steps": forward, "carries_state": forward},
        backends=("torch",),
        only=("matches_reference", "backend_really_runs"),
        reference=stepped if forward else lambda node, x, state: (equations(node, x)[0], {}),
        ops={"torch": ["sj_lang::bpsn", "sj_lang::bpsn_backward"]},
    )
    assert len(report.passed) == 4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own
@pytest.mark.parametrize("sides", ["both", "past", "future"])
def test_the_operator_is_sound_and_its_gradients_exact(sides: str) -> None:
    """With states, lengths and a spatial axis, in one call."""
    torch.manual_seed(0)

    def parameter(low: float = 0.2, high: float = 0.9) -> Tensor:
        return (low + (high - low) * torch.rand(2, dtype=torch.float64)).requires_grad_()

    past, future = sides != "future", sides != "past"
    lengths = torch.tensor([5, 3, 0])
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    x = x.masked_fill((torch.arange(5)[:, None] >= lengths)[..., None, None], 0).requires_grad_()
    numerator = torch.randn(3, 2, 2, dtype=torch.float64).requires_grad_() if sides == "past" else None
    denominator = (1 + torch.rand(3, 2, dtype=torch.float64)).requires_grad_() if sides == "past" else None
    decays = [parameter() if past else None, parameter() if past else None]
    decays += [parameter() if future else None, parameter() if future else None]
    args = (x, parameter(), parameter(), *decays, parameter(), numerator, denominator, lengths)
    for normalised in (True, False):
        torch.autograd.gradcheck(lambda *a, n=normalised: [y for y in potential(BPSNTerms(*a, n)) if y.numel()], args)
        torch.library.opcheck(torch.ops.sj_lang.bpsn.default, (*args, normalised))
    fixed = [None if a is None else a.detach() for a in args]
    after = torch.zeros(0) if numerator is None else torch.ones_like(fixed[8])  # type: ignore[arg-type]
    backward = (torch.ones_like(x), after, *fixed, True, numerator is not None)
    torch.library.opcheck(torch.ops.sj_lang.bpsn_backward.default, backward)


def test_firing_is_that_of_spikingjelly_but_keeps_nan() -> None:
    u = torch.tensor([-float("inf"), -0.3, -0.0, 0.0, 1e-30, 0.7, float("inf")], requires_grad=True)
    upstream = torch.linspace(-1, 2, 7)
    for surrogate in (compat.surrogate("ATan"), compat.surrogate("Sigmoid"), type(compat.surrogate("ATan"))(alpha=3.7)):
        results = [run(u) for run in (surrogate, Firing(surrogate))]
        assert torch.equal(*results)
        grads = [torch.autograd.grad(s, u, upstream)[0] for s in results]
        torch.testing.assert_close(grads[1], grads[0])
        kept = Firing(surrogate)(torch.tensor([1.0, float("nan"), -1.0]))
        assert kept.isnan().tolist() == [False, True, False]


def test_a_smooth_surrogate_stays_smooth() -> None:
    surrogate = compat.surrogate("ATan")
    surrogate.set_spiking_mode(False)
    u = torch.tensor([-0.5, 0.2])
    assert torch.equal(Firing(surrogate)(u), surrogate(u))


def test_float32_stays_close_over_thousands_of_steps_and_slow_decays() -> None:
    torch.manual_seed(0)
    node = BPSN(channels=6, store_v_seq=True)
    with torch.no_grad():
        node.decay_f.copy_(torch.tensor([-40.0, 0.0, 4.0, 8.0, 12.0, 40.0]))  # type: ignore[union-attr]
        node.decay_b.copy_(node.decay_f.flip(0))  # type: ignore[union-attr, arg-type]
    x = torch.randn(5000, 2, 6)
    node(x)
    single = node.v_seq
    node.double()(x.double())
    assert single is not None
    assert node.v_seq is not None
    torch.testing.assert_close(single.double(), node.v_seq, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(90, 3, 5), (90, 7, 1), (90, 23, 3)], ids=str)
@pytest.mark.parametrize("block", [7, 40, 500])
def test_a_last_tile_that_is_narrower_fits_in_the_memory_of_the_first(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], block: int
) -> None:
    node, x = built("R", "both", channels=shape[2]), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    whole = node(x)
    want = torch.autograd.grad(whole.sum(), [x, *node.parameters()])
    monkeypatch.setattr(tiles, "BLOCK", block)
    for columns in (1, 4, 16, 30):
        monkeypatch.setattr(tiles, "COLUMNS", columns)
        spikes = node(x)
        assert torch.equal(spikes, whole)
        torch.testing.assert_close(torch.autograd.grad(spikes.sum(), [x, *node.parameters()]), want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_at_the_end_of_their_range_give_finite_gradients(variant: str) -> None:
    torch.manual_seed(0)
    node, x = BPSN(channels=6, variant=variant), torch.randn(300, 2, 6, requires_grad=True)  # type: ignore[arg-type]
    with torch.no_grad():
        for logit in (node.decay_f, node.decay_b):
            logit.copy_(torch.tensor([-200.0, -90.0, 0.0, 17.0, 40.0, 200.0]))  # type: ignore[union-attr]
        node.threshold.fill_(-200.0)
    spikes = node(x)
    spikes.sum().backward()
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in (x, *node.parameters()))


@pytest.mark.parametrize("cut", [None, (40, 4)], ids=["one piece", "many tiles and blocks"])
@pytest.mark.parametrize(("variant", "direction"), CASES)
def test_nan_goes_where_the_direction_lets_it(
    monkeypatch: pytest.MonkeyPatch, variant: str, direction: str, cut: tuple[int, int] | None
) -> None:
    if cut:
        monkeypatch.setattr(tiles, "BLOCK", cut[0])
        monkeypatch.setattr(tiles, "COLUMNS", cut[1])
    x = torch.randn(90, 3, 5, dtype=torch.float64)
    x[40, 1, 2] = float("nan")
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[{"both": slice(None), "forward": slice(40, None), "backward": slice(None, 41)}[direction], 1, 2] = True
    assert torch.equal(built(variant, direction)(x).isnan(), expected)


def test_settled_weights_are_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    node = BPSN(channels=8)
    x = torch.randn(400, 2, 8)
    found = [run.requires_grad_() for run in (x.clone(), x.clone())]
    node(found[0]).sum().backward()
    monkeypatch.setattr(tiles, "_reach", lambda decays, x: len(x))
    node(found[1]).sum().backward()
    torch.testing.assert_close(found[0].grad, found[1].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "Q"}, "no variant 'Q'.*A, G, K, R"),
        ({"direction": "bakward"}, "no direction 'bakward'.*backward"),
        ({"v_threshold": 0.0}, "v_threshold is 0.0, it must be above 0"),
        ({"variant": "K", "kappa": 1.0}, "kappa is 1.0, it must lie between 0 and 1"),
        ({"step_mode": "s"}, 'step_mode "s" is not possible.*needs the whole sequence'),
        ({"direction": "backward", "step_mode": "s"}, "needs the whole sequence"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BPSN(channels=3, **options)


@pytest.mark.parametrize("direction", ["both", "backward"])
def test_a_single_step_is_refused_with_the_reason(direction: str) -> None:
    node = BPSN(channels=3, direction=direction)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no single step"):
        node.single_step_forward(torch.zeros(2, 3))
    node.step_mode = "s"
    with pytest.raises(ValueError, match="needs the whole sequence"):
        node(torch.zeros(2, 3))


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_numerator_without_a_denominator_has_the_gradient_of_the_equations(backend: str) -> None:
    """Nothing carried in: M = 0 at the first token."""
    node = built("R", "forward", surrogate_function="Sigmoid", backend=backend)
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    found = []
    for run in (lambda state: node.functional(x, state)[0], lambda state: stepped(node, x, state)[0]):
        state = node.init_state(x)
        start = state["numerator"].requires_grad_()
        found.append(torch.autograd.grad(run(state).sum(), start)[0])
    torch.testing.assert_close(*found)
