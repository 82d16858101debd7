"""What BPSN is for: the columns of the table of variants, the bound on runs of K,
K as the sequential neuron it is.
"""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN
from torch import Tensor, nn

from sj_lang import compat
from sj_lang.testing.properties import influence, longest_run, potentials

VARIANTS, DIRECTIONS = ("R", "A", "G", "K"), ("both", "forward", "backward")
FIRST_GAINS = (0.5, 0.3, 0.2)  # g0, gf, gb: they sum to 1


def even(variant: str, gains: tuple[float, float, float] = FIRST_GAINS, decay: float = 0.6, **options: Any) -> BPSN:
    """A node in float64 of one channel, with V = 1 and these gains."""
    node = BPSN(channels=1, variant=variant, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, value in zip(("gain_0", "gain_f", "gain_b"), gains, strict=True):
            if getattr(node, name) is not None:
                getattr(node, name).fill_(value)
        for logit in (node.decay_f, node.decay_b):
            if logit is not None:
                logit.fill_(math.log(decay / (1 - decay)))
    return node


def constant(size: float, steps: int = 80) -> Tensor:
    return torch.full((steps, 1, 1), size, dtype=torch.float64)


def interior(node: BPSN, size: float) -> Tensor:
    """The spikes of a constant input where both sides are there."""
    return node.functional(constant(size))[0][1:-1].detach()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_any_length_with_the_same_parameters(variant: str, direction: str) -> None:
    """Far from the edges a token's spikes do not depend on how long the sequence is."""
    torch.manual_seed(0)
    node = BPSN(channels=8, variant=variant, direction=direction).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for logit in (node.decay_f, node.decay_b):
            if logit is not None:
                logit.clamp_(max=0.0)
    x = torch.randn(600, 1, 8, dtype=torch.float64)
    whole = potentials(node, x)
    for start, stop in ((0, 1), (0, 7), (100, 400), (0, 600)):
        part = potentials(node, x[start:stop])
        assert part.shape == (stop - start, 1, 8)
        inside = slice(60, -60) if stop - start == 300 else slice(0, 0) if stop - start < 300 else slice(None)
        torch.testing.assert_close(part[inside], whole[start:stop][inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_is_not_there(variant: str, direction: str) -> None:
    torch.manual_seed(0)
    node = BPSN(channels=8, variant=variant, direction=direction, store_v_seq=True)  # type: ignore[arg-type]
    x, mask = torch.randn(30, 1, 8), torch.rand(30, 1) > 0.4
    spikes = node(x.masked_fill(~mask[..., None], math.nan), mask=mask)
    seen = node.v_seq
    node.reset()
    assert torch.equal(spikes[mask], node(x[mask[:, 0]])[:, 0])
    assert seen is not None
    assert node.v_seq is not None
    assert torch.equal(seen[mask], node.v_seq[:, 0])


def test_weak_constant_input_is_silent_where_the_table_says_so() -> None:
    """Gains that sum to 1 and an input of .9 V: G and R are silent, A adds up until it fires,
    K counts nine in ten.
    """
    rates = {variant: float(interior(even(variant), 0.9).mean()) for variant in ("A", "G", "R")}
    assert rates == {"A": 1.0, "G": 0.0, "R": 0.0}
    counted = even("K", kappa=0.95).functional(constant(0.9, steps=1000))[0].detach()
    assert float(counted[1:-1].sum()) == pytest.approx(0.9 * 998, abs=1)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("gains", [(0.5, 0.3, 0.2), (1.0, 0.7, 0.9)])
def test_the_size_up_to_which_constant_input_is_silent(rho: float, gains: tuple[float, float, float]) -> None:
    """R: c < V / ((1 - rho) (g0 + gf + gb)); G: the same with rho = 0. Sharp on both sides."""
    for variant, lateral in (("R", rho), ("G", 0.0)):
        node = even(variant, gains)
        if node.lateral is not None:
            nn.init.constant_(node.lateral, math.log(rho / (1 - rho)))
        bound = 1 / ((1 - lateral) * sum(gains))
        assert not interior(node, 0.999 * bound).any()
        assert interior(node, 1.001 * bound).all()


def test_long_runs_are_bounded_where_the_table_says_so() -> None:
    loud = {variant: longest_run(even(variant).functional(constant(5.0))[0]) for variant in VARIANTS}
    assert loud["A"] == loud["G"] == 80
    assert loud["K"] == 7
    assert loud["R"] <= 2  # at rho = .88 the lateral mean holds it down; the edges miss a side

    node = even("R")
    # a ramp: the past, which is lower, is forgotten more slowly than the future, which is higher
    with torch.no_grad():
        assert node.decay_f is not None
        assert node.decay_b is not None
        node.decay_f.fill_(3.0)
        node.decay_b.fill_(-3.0)
        node.gain_b.fill_(1.0)  # type: ignore[union-attr]
    ramp = torch.arange(80, dtype=torch.float64).view(80, 1, 1)
    assert longest_run(node.functional(ramp)[0]) > 70


@pytest.mark.parametrize("kappa", ["1/10", "1/2", "3/4", "7/8", "9/10", "99/100"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_runs_of_k_never_exceed_their_bound(kappa: str, direction: str) -> None:
    """At most ceil(1 / (1 - kappa)) - 1 spikes in a row for any input; some input reaches it."""
    torch.manual_seed(0)
    share = Fraction(kappa)
    bound = math.ceil(1 / (1 - share)) - 1
    node = BPSN(channels=64, variant="K", direction=direction, kappa=float(share))  # type: ignore[arg-type]
    t = torch.arange(1500.0).view(-1, 1, 1)
    for x in (
        torch.randn(1500, 1, 64) * 5 + 2,
        torch.full((1500, 1, 64), 1e6),
        (t / 100).expand(-1, 1, 64),
        torch.where(torch.rand(1500, 1, 64) < 0.9, 1e3, 0.0),
    ):
        spikes, _ = node.functional(x)
        assert longest_run(spikes) <= bound
    # charged to just below the threshold, then driven by kappa without a break
    charge = torch.cat((torch.zeros(1), torch.full((1,), 0.4999), torch.full((200,), 9.0)))
    single = even("K", (1.0, 0.0, 0.0), direction=direction, kappa=float(share))
    assert longest_run(single.functional(charge.double().view(-1, 1, 1))[0]) == bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_k_is_the_integrate_and_fire_neuron_with_soft_reset(direction: str, dtype: torch.dtype) -> None:
    """SpikingJelly's IFNode, driven by the clipped current and begun at 1/2:
    every one of its spikes, and no other.
    """
    torch.manual_seed(0)
    node = BPSN(channels=16, variant="K", direction=direction).to(dtype)  # type: ignore[arg-type]
    x = torch.randn(5000, 2, 16, dtype=dtype) + 0.5
    h = potentials(node, x)
    current = (h / nn.functional.softplus(node.threshold)).clamp(0, 7 / 8)
    # whole ticks: float64 adds them without rounding
    current = (current.double() * 2**24).round() / 2**24
    serial = compat.spikingjelly("neuron").IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
    serial.v = torch.full((2, 16), 0.5, dtype=torch.float64)
    want = serial(current)
    assert 0.1 < float(want.detach().mean()) < 0.9
    assert torch.equal(node.functional(x)[0].double(), want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_token_sees_the_side_that_the_direction_names(variant: str) -> None:
    x = torch.randn(9, 2, 5, dtype=torch.float64)
    seen = torch.ones(9, 9, dtype=torch.bool)
    for direction, reached in (("both", seen), ("forward", seen.tril()), ("backward", seen.triu())):
        torch.manual_seed(0)
        node = BPSN(channels=5, variant=variant, direction=direction, v_threshold=0.5).double()  # type: ignore[arg-type]
        assert torch.equal(influence(node, 0.2 * x + 0.3), reached), direction


def test_backward_is_forward_read_from_the_end() -> None:
    for variant in VARIANTS:
        torch.manual_seed(0)
        ahead = BPSN(channels=5, variant=variant, direction="forward")  # type: ignore[arg-type]
        behind = BPSN(channels=5, variant=variant, direction="backward")  # type: ignore[arg-type]
        behind.load_state_dict({k.replace("_f", "_b"): v for k, v in ahead.state_dict().items()})
        x = torch.randn(40, 3, 5)
        if variant == "K":  # it counts with time, whichever side it looks at
            assert torch.equal(potentials(behind, x), potentials(ahead, x.flip(0)).flip(0))
        else:
            assert torch.equal(behind.functional(x)[0], ahead.functional(x.flip(0))[0].flip(0))


def test_parameters_at_the_start() -> None:
    torch.manual_seed(0)
    node = BPSN(channels=1000, v_threshold=0.7)
    assert {name for name, _ in node.named_parameters()} == {
        "decay_f", "decay_b", "gain_0", "gain_f", "gain_b", "lateral", "threshold",
    }  # fmt: skip
    decays = [node.decay_f.sigmoid(), node.decay_b.sigmoid()]  # type: ignore[union-attr]
    for decay in decays:
        torch.testing.assert_close(decay.sort().values, 0.1 + 0.7 * (torch.arange(1000) + 0.5) / 1000)
    # each shuffled on its own
    assert float(torch.corrcoef(torch.stack(decays).detach())[0, 1].abs()) < 0.1
    for gain in (node.gain_f, node.gain_b):
        assert gain is not None
        assert float(gain.detach().std()) == pytest.approx(0.5, abs=0.05)
        assert float(gain.detach().mean()) == pytest.approx(0, abs=0.05)
    assert (node.gain_0 == 1).all()
    assert (node.lateral == 2).all()
    torch.testing.assert_close(nn.functional.softplus(node.threshold), torch.full((1000,), 0.7))
