"""DSN against its equations, the promises of a node, and the properties that the paper states."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_neurons import DSN
from sj_lang_neurons.dsn import reference
from sj_lang_neurons.dsn import torch as plain
from sj_lang_neurons.dsn.decay import gain, gain_
from sj_lang_neurons.firing import Rect
from torch import Tensor

from sj_lang import compat, plugins
from sj_lang.testing import check_node

State = dict[str, Tensor]
VARIANTS: dict[str, dict[str, Any]] = {
    "conv": {},
    "linear": {"decay": "linear"},
    "static": {"decay": "static", "alpha_init": 0.8},
    "one tap, tau .7": {"k": 1, "tau": 0.7},
    "nine taps, tau 1/3": {"k": 9, "tau": 1 / 3, "alpha_init": 0.9},
    "binary": {"n": 1},
    "ATan": {"n": 1, "surrogate_function": "ATan", "v_threshold": 0.6},
}


def equations(node: DSN, x: Tensor, state: State | None, fire: Callable[[Tensor], Tensor] | None = None) -> Any:
    """The reference in the terms of `functional`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    start = node.init_state(x) if state is None else state
    bias = node.bias.to(dtype)
    logit = reference.static(bias)
    if node.weight is not None:
        form = reference.conv if node.decay == "conv" else reference.linear
        logit = form(node.weight.to(dtype), bias)
    fire = fire or (lambda h: node.surrogate_function(h - node.v_threshold))
    if isinstance(node.surrogate_function, Rect):
        smooth = not node.surrogate_function.spiking
        fire = (lambda h: h.clamp(0, node.levels)) if smooth else (lambda h: reference.rect(h, node.levels))
    s, h, tail = reference.sequence(
        x.to(dtype), start["h"].to(dtype), start["tail"].to(dtype), logit=logit, tau=node.tau, fire=fire
    )
    return s.to(x.dtype), {"h": h, "tail": tail}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_operator_runs_and_equals_the_equations_in_the_kit(options: dict[str, Any]) -> None:
    """The kit's other checks run on every registered neuron; these need to know DSN."""
    report = check_node(
        lambda channels: DSN(channels=channels, **options),
        traits=plugins.get("neuron", "dsn"),
        backends=("torch",),
        only=("matches_reference", "backend_really_runs"),
        reference=equations,
        ops={"torch": ["sj_lang::dsn"]},
    )
    assert len(report.passed) == 4


@pytest.mark.parametrize("block", [plain.BLOCK, 60], ids=["one block", "many blocks"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 2)], ids=["TBC", "TBCHW"])
@pytest.mark.parametrize("steps", [1, 3, 41])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_equals_the_equations_with_every_gradient(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], steps: int, shape: tuple[int, ...], block: int
) -> None:
    monkeypatch.setattr(plain, "BLOCK", block)
    monkeypatch.setattr(plain, "WIDTH", min(block, plain.WIDTH) // 12)
    torch.manual_seed(steps)
    node = DSN(channels=shape[1], **options).double()
    x = torch.randn(steps, *shape, dtype=torch.float64).mul(2).requires_grad_()
    state = {name: torch.randn_like(value).requires_grad_() for name, value in node.init_state(x).items()}
    leaves = {"x": x, **state, **dict(node.named_parameters())}

    def run(function: Callable[[Tensor, State], tuple[Tensor, State]]) -> list[Tensor]:
        s, after = function(x, state)
        out = [s, after["h"], after["tail"]]
        torch.manual_seed(0)
        loss = sum((value * torch.randn_like(value)).sum() for value in out)
        return [*out, *torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)]

    names = ["S", "H", "new tail", *(f"gradient of {name}" for name in leaves)]
    for name, ours, true in zip(names, run(node.functional), run(lambda x, s: equations(node, x, s)), strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_spikes_in_float32_differ_only_at_ties() -> None:
    """512 steps against the equations in float64:
    a spike may differ within 1e-5 of a threshold, and few do.
    """
    torch.manual_seed(0)
    node = DSN(channels=64, alpha_init=0.9, store_v_seq=True)
    x = torch.randn(512, 2, 64) * 4
    spikes = node(x)
    wide = DSN(channels=64, alpha_init=0.9, store_v_seq=True).double()
    wide.load_state_dict({name: value.double() for name, value in node.state_dict().items()})
    true, _ = equations(wide, x.double(), None)
    _, state = wide.functional(x.double())
    assert (node.h - state["h"]).abs().max() < 1e-5
    wide(x.double())
    to_threshold = ((wide.v_seq + 0.5).round() - 0.5 - wide.v_seq).abs()
    differs = spikes != true
    assert (to_threshold[differs] < 1e-5).all()
    assert differs.sum() <= 1e-4 * differs.numel()
    assert 0.05 < (spikes > 0).float().mean() < 0.95


def test_long_memory_settles_on_the_input() -> None:
    """H of a constant input is that input in the end, however near to 1 alpha is:
    1 - alpha has all its digits.
    """
    node = DSN(channels=3, decay="static", alpha_init=0.9999, n=8)
    _, state = node.functional(torch.full((120_000, 1, 3), 3.0))
    torch.testing.assert_close(state["h"], torch.full((1, 3), 3.0), rtol=2e-5, atol=0)


@pytest.mark.parametrize("tau", [0.25, 0.7, 1.0, 4.0])
def test_potential_never_exceeds_the_input(tau: float) -> None:
    """Long control: H is a convex combination of the inputs."""
    torch.manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        node = DSN(channels=32, tau=tau, store_v_seq=True)
        torch.nn.init.normal_(node.weight, std=scale)
        torch.nn.init.normal_(node.bias, std=scale)
        x = torch.randn(400, 2, 32).clamp(-2, 2)
        node(x)
        assert (node.v_seq.abs() <= x.abs().amax(0) * (1 + 1e-5)).all()


def test_short_control() -> None:
    """If H >= V and the inputs after it stay below V / D,
    small enough an alpha brings H below V within D steps.
    """
    torch.manual_seed(0)
    potential, threshold, span = 3.0, 1.0, 5
    x = torch.rand(span, 1, 200) * threshold / span
    bound = (threshold - x[0, 0]) / (potential - x[0, 0])
    node = DSN(channels=200, decay="static", tau=1.0).double()
    with torch.no_grad():
        node.bias.copy_(torch.logit(bound.double() * 0.999))
    start = {"h": torch.full((1, 200), potential).double(), "tail": torch.zeros(1, 0, 200).double()}
    _, state = node.functional(x.double(), start)
    assert (state["h"] < threshold).all()
    _, first = node.functional(x[:1].double(), start)
    assert (first["h"] > threshold * 0.99).all()  # the bound is tight for one step


@pytest.mark.parametrize(("tau", "alpha"), [(0.25, 0.09), (1.0, 0.50), (4.0, 0.83), (16.0, 0.955)])
def test_mean_alpha_at_the_start(tau: float, alpha: float) -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=2048, tau=tau).requires_grad_(False), torch.randn(40, 1, 2048)
    logit = sum((node.weight[:, i] * x[i : i + 37] for i in range(4)), node.bias)
    assert float((1 - gain(-logit, 1 / tau)).mean()) == pytest.approx(alpha, abs=0.01)


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 0.9, 0.99999])
@pytest.mark.parametrize("tau", [0.01, 0.25, 3.0])
def test_alpha_init(alpha: float, tau: float) -> None:
    node = DSN(channels=2, alpha_init=alpha, tau=tau).double()
    node.reset_parameters()
    _, state = node.functional(torch.zeros(1, 1, 2, dtype=torch.float64), {**zeros(node), "h": torch.ones(1, 2)})
    assert state["h"].tolist() == [pytest.approx([alpha, alpha], rel=1e-9)]


def zeros(node: DSN) -> State:
    return node.init_state(torch.zeros(1, 1, node.channels))


@pytest.mark.parametrize("m", [1.0, 2.0, 3.0, 4.0, 7.0, 10.0, 0.25, 1.7])
def test_gain_has_all_digits_where_alpha_is_near_one(m: float) -> None:
    z = torch.linspace(-16, 16, 999)
    wide = -torch.expm1(torch.nn.functional.logsigmoid(-z.double()) * m)
    torch.testing.assert_close(gain(z, m).double(), wide, rtol=2e-6, atol=0)
    q, w = z.clone(), torch.empty_like(z)
    gain_(q, m, w)
    assert torch.equal(q, torch.sigmoid(z))
    torch.testing.assert_close(w, gain(z, m), rtol=2e-7, atol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_firing_and_its_gradient_at_the_edges(fused: bool) -> None:
    h = torch.tensor([-1.0, -0.1, 0.0, 0.5, 0.51, 1.5, 2.5, 3.0, 3.2])
    node = DSN(channels=9, decay="static", tau=1.0, n=3, store_v_seq=not fused)
    torch.nn.init.constant_(node.bias, -40.0)  # alpha = 0: H is the input
    x = h.view(1, 1, 9).requires_grad_()
    spikes, _ = node.functional(x)
    spikes.sum().backward()
    assert spikes.flatten().tolist() == [0, 0, 0, 0, 1, 2, 2, 3, 3]
    assert x.grad.flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0]


def test_integer_spikes_unroll_into_binary_steps() -> None:
    torch.manual_seed(0)
    spikes, _ = DSN(channels=8, n=4).functional(torch.randn(20, 2, 8) * 3)
    assert set(spikes.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(sum((spikes >= d).float() for d in range(1, 5)), spikes)


def test_every_surrogate_fires_binary_and_shows_nan() -> None:
    torch.manual_seed(0)
    clean = torch.randn(12, 2, 4) * 3
    x = clean.clone()
    x[5, 0, 1] = torch.nan
    for name in compat.surrogates():
        node = DSN(channels=4, n=1, surrogate_function=name, v_threshold=0.5)
        spikes, _ = node.functional(x)
        hidden = spikes.isnan()
        assert hidden[5:, 0, 1].all(), name
        assert hidden.sum() == 7, name
        assert set(spikes[~hidden].unique().tolist()) == {0.0, 1.0}, name
        leaf = clean.clone().requires_grad_()
        node.functional(leaf)[0].sum().backward()
        assert leaf.grad.abs().sum() > 0, name


def test_nan_in_a_valid_step_is_seen_in_its_channel_from_then_on() -> None:
    x = torch.randn(12, 2, 4, generator=torch.Generator().manual_seed(0))
    x[5, 0, 1] = torch.nan
    for node in (DSN(channels=4), DSN(channels=4, store_v_seq=True)):
        seen = node(x).isnan()
        assert seen[5:, 0, 1].all()
        assert seen.sum() == 7
    assert DSN(channels=4, decay="linear")(x)[5, 0].isnan().all()  # its leak is of all channels


def test_nothing_of_the_size_of_the_input_is_kept_but_the_input() -> None:
    node, x = DSN(channels=64), torch.randn(4000, 1, 64, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        node.functional(x)
    assert sum(kept.values()) <= 1.05 * x.nbytes


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("taps", [0, 1, 4])
def test_operators_are_registered_completely(taps: int) -> None:
    torch.manual_seed(0)
    bias = torch.randn(9 if taps == 0 else 1, 4)
    x, tail, h_0, weight = torch.randn(9, 4), torch.randn(max(taps - 1, 0), 4), torch.randn(4), torch.randn(taps, 4)
    lengths = torch.tensor([9, 5, 0, 9])
    leaves = [value.clone().requires_grad_() for value in (x, tail, h_0, weight, bias)]
    torch.library.opcheck(torch.ops.sj_lang.dsn.default, (*leaves, lengths, 4.0, 2, 3, 3))
    backward = (torch.randn(9, 4), h_0, torch.randn(3, 4), x, tail, h_0, weight, bias, lengths, 4.0, 2, 3, 3)
    torch.library.opcheck(torch.ops.sj_lang.dsn_backward.default, backward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "cone"}, "no decay 'cone'; valid: conv, linear, static"),
        ({"k": 0}, "k is 0"),
        ({"tau": 0.0}, "tau is 0.0, it must be above 0"),
        ({"tau": -1}, "tau is -1"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"n": 0}, "n is 0"),
        ({"alpha_init": 0.0}, "alpha_init is 0.0, it must lie between 0 and 1"),
        ({"alpha_init": 1.0}, "alpha_init is 1.0"),
        ({"surrogate_function": "ATan"}, "needs n = 1, got n = 4"),
        ({"surrogate_function": "Atan", "n": 1}, "no surrogate 'Atan'; did you mean 'ATan'"),
        ({"channels": 0}, "channels is 0"),
        ({"step_mode": "x"}, 'step_mode "x" is not possible; this node has "s" and "m"'),
        ({"backend": "triton"}, "no backend 'triton'; valid: auto, cupy, numba, torch"),
    ],
)
def test_arguments_that_make_no_neuron(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DSN(**{"channels": 4, **options})


def test_it_prints_what_it_is() -> None:
    assert "channels=3, step_mode=m, backend=auto, decay=conv, k=4, tau=0.25, n=4" in repr(DSN(channels=3))


def test_image_layout_is_one_kernel_per_channel() -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=3), torch.randn(9, 2, 3, 4, 5)
    spikes, state = node.functional(x)
    pixel, _ = node.functional(x[..., 1, 2])
    assert torch.equal(spikes[..., 1, 2], pixel)
    assert state["tail"].shape == (2, 3, 3, 4, 5)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_state_after_a_mask_with_a_gap_can_be_detached(k: int, batch: int) -> None:
    node = DSN(channels=3, k=k)
    mask = torch.tensor([True, False, True, True])[:, None].expand(4, batch)
    spikes = node(torch.randn(4, batch, 3, requires_grad=True), mask=mask)
    assert spikes.requires_grad
    compat.spikingjelly("functional").detach_net(net=torch.nn.Sequential(node))
    assert not node.tail.requires_grad
