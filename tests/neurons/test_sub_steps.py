"""Sub-steps against their definition, around several neurons; what they declare and refuse."""

from __future__ import annotations

import copy
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from sj_lang_neurons import DSN, SubSteps
from sj_lang_neurons.sub_steps import reference
from torch import Tensor, nn

from sj_lang import build, cli, compat, plugins
from sj_lang.compat import spikingjelly
from sj_lang.energy import energy, ledger
from sj_lang.errors import UserError
from sj_lang.hookspecs import FLAGS
from sj_lang.masks import State
from sj_lang.monitor import Monitor, decays, neuron_parameters, nodes
from sj_lang.recipe import load
from sj_lang.spikingjelly.nodes import LIF
from sj_lang.swap import swap
from sj_lang.testing import check_node

functional: Any = spikingjelly("functional")
needs_psn = pytest.mark.skipif(bool(plugins.get("neuron", "psn").missing), reason="SpikingJelly has no PSN")
LEAKY = {"type": "lif", "decay_input": False}
INSIDE = [
    LEAKY,
    {"type": "plif", "v_reset": None},
    {"type": "dsn", "n": 1},
    {"type": "dsn", "n": 3},
    {"type": "bpsn", "direction": "forward", "variant": "A", "spikes": "integer", "levels": 2},
    pytest.param({"type": "sliding_psn", "k": 3}, marks=needs_psn),
]
X = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(5)).double() * 2  # [T, B, C]


def made(of: Any, m: int = 4) -> SubSteps:
    torch.manual_seed(0)
    node = build.part("neuron", {"type": "sub_steps", "of": of, "m": m})(channels=4)
    assert isinstance(node, SubSteps)
    return node.double()


def by_definition(node: SubSteps, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """The reference around the single steps of the neuron inside."""
    inside = copy.deepcopy(node.neuron)
    inside.step_mode = "s"
    start = inside.init_state(x[0]) if state is None else state
    return reference.sequence(inside.functional, x, start, node.m)


@pytest.mark.any_line
@pytest.mark.parametrize("of", INSIDE, ids=str)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_sub_steps_are_their_definition(of: dict[str, Any], m: int) -> None:
    node = made(of, m)
    with torch.no_grad():
        _, state = node.functional(X)
    for start in (None, state):
        x, same = X.clone().requires_grad_(), X.clone().requires_grad_()
        spikes, after = node.functional(x, start)
        want, want_after = by_definition(node, same, start)
        assert torch.equal(spikes, want)
        assert all(torch.allclose(after[name], want_after[name]) for name in want_after)
        (gradient,) = torch.autograd.grad(spikes.sum(), x)
        (want_gradient,) = torch.autograd.grad(want.sum(), same)
        assert torch.allclose(gradient, want_gradient)
        assert node.levels == m * node.neuron.levels >= spikes.max() > m - 1


@pytest.mark.parametrize("of", INSIDE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_sub_step_is_the_neuron_bit_for_bit(of: dict[str, Any], dtype: torch.dtype) -> None:
    node, mask = made(of, 1).to(dtype), torch.tensor([[True] * 3] * 4 + [[True, False, True]] * 2)
    leaves = [X.to(dtype).requires_grad_() for _ in range(2)]
    runs = [one.functional(x, mask=mask) for one, x in zip((node, node.neuron), leaves, strict=True)]
    (spikes, state), (want, want_state) = runs
    assert torch.equal(spikes, want)
    assert all(torch.equal(state[name], want_state[name]) for name in want_state)
    gradients = [torch.autograd.grad(s.sum(), x)[0] for (s, _), x in zip(runs, leaves, strict=True)]
    assert torch.equal(*gradients)
    assert node.operations() == node.neuron.operations()
    assert [*decays(node)] == [f" {name}" for name in node.neuron.decays()]


@needs_psn
def test_psn_inside_mixes_all_sub_steps_of_a_sequence_of_one_length() -> None:
    make = build.part("neuron", {"type": "sub_steps", "m": 2, "of": {"type": "psn", "T": 14}})
    assert not any(make.traits[flag] for flag in FLAGS)
    assert check_node(make, length=7).passed
    node = make(channels=4).double()
    with pytest.raises(UserError, match="PSN is built for T = 14 steps, the input has 12: set its T to that"):
        node(X)
    functional.set_step_mode(node, "s")
    with pytest.raises(ValueError, match='step_mode "s" is not possible'):
        node(X[0])
    with pytest.raises(ValueError, match='step_mode "s" is not possible'):
        make(channels=4).double().single_step_forward(X[0])


def test_both_sides_are_read_in_sequences_only() -> None:
    make = build.part("neuron", {"type": "sub_steps", "m": 2, "of": "bpsn"})
    assert {flag for flag in FLAGS if make.traits[flag]} == {"takes_mask", "any_length"}
    with pytest.raises(ValueError, match='step_mode "s" is not possible'):
        make(channels=4).double().single_step_forward(X[0])


def test_signed_spikes_are_added_with_their_signs() -> None:
    node = made({"type": "bpsn", "spikes": "ternary"}, 3)
    assert (node.levels, node.spike_range) == (3, (-3, 3))
    assert node.functional(4 * X)[0].min() < -1


def test_what_is_inside_is_set_from_outside() -> None:
    node = made("dsn", 2)
    node.axis, node.store_v_seq, node.backend = -1, True, "torch"
    inside = node.neuron
    assert (inside.axis, inside.store_v_seq, inside.backend) == (-1, True, "torch")
    with pytest.raises(ValueError, match="no backend 'troch'"):
        node.backend = "troch"
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    assert torch.equal(node(x), made("dsn", 2)(x.movedim(-1, 2)).movedim(2, -1))


def test_the_potentials_are_those_after_the_last_sub_step() -> None:
    node, inside = made({**LEAKY, "store_v_seq": True}, 3), LIF(channels=4, decay_input=False, store_v_seq=True)
    node(X)
    inside(X.repeat_interleave(3, 0))
    assert node.v_seq is not None
    assert inside.v_seq is not None
    assert torch.equal(node.v_seq, inside.v_seq[2::3])
    functional.reset_net(node)
    assert node.v_seq is None
    node.step_mode = "s"
    for x in X:
        node(x)
    assert torch.equal(node.v_seq, inside.v_seq[2::3])


def test_a_copy_has_parameters_of_its_own_and_a_checkpoint_all_of_them() -> None:
    node = made("dsn", 2)
    other = copy.deepcopy(node)
    assert other(X).equal(node(X))
    assert {*node.state_dict()} == {"neuron.weight", "neuron.bias"}
    with torch.no_grad():
        other.neuron.bias.add_(2.0)
    functional.reset_net(other)
    functional.reset_net(node)
    assert not other(X).equal(node(X))
    other.load_state_dict(node.state_dict())
    functional.reset_net(other)
    functional.reset_net(node)
    assert other(X).equal(node(X))


def test_a_step_keeps_the_share_of_all_its_sub_steps() -> None:
    ((name, kept),) = decays(made({"type": "dsn", "alpha_init": 0.5}, 3)).items()
    assert name == " (alpha)^3"
    assert torch.allclose(kept, torch.tensor(0.5**3))


class Net(nn.Module):
    """Linear, a neuron, Linear: the neuron's currents are 100, 1.2 and -100, whatever the input."""

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.first, self.node, self.second = nn.Linear(4, 3), node, nn.Linear(3, 2)
        nn.init.zeros_(self.first.weight)
        self.first.bias.data = torch.tensor([100.0, 1.2, -100.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.node(self.first(x)))  # type: ignore[no-any-return]


def test_sub_steps_are_priced_one_by_one() -> None:
    """LIF with tau 2: 1.2 reaches the threshold of 1 at every third sub-step, 100 at each."""
    net = Net(build.part("neuron", {"type": "sub_steps", "m": 3, "of": "lif"})(channels=3))
    book = ledger(net, torch.randn(2, 1, 4))  # T = 2
    assert not book.uncounted
    _, middle, second = book.rows
    assert (middle.layer, middle.operation, middle.operands_text) == ("node", "SubSteps", "integer, 0 to 3")
    assert (middle.macs, middle.accumulations, middle.neuron_steps) == (3 * 6, 3 * 6, 3 * 6)
    assert (middle.bytes("states"), middle.bytes("activations")) == (3 * 2 * 2 * 4 * 3, 3 * 4 * 6 + 6 * 2 / 8)
    assert (second.macs, second.accumulations) == (0, (3 + 1) * 2 * 2)
    assert energy(net, torch.ones(2, 1, 4), costs="loihi")["energy.neurons_mj"] == pytest.approx(1e-9 * 81 * 3 * 6)


def test_the_firing_rate_is_a_share_of_all_sub_steps() -> None:
    net = nn.Sequential(made(LEAKY, 4))
    assert [*nodes(net)] == ["0"]
    monitor = Monitor(net)
    with torch.no_grad(), monitor.recording():
        spikes, _ = net[0].functional(X)
    assert monitor.figures()["firing_rate.mean"] == pytest.approx(float(spikes.sum()) / (4 * X.numel()))
    assert [*monitor.layers] == ["0"]
    assert neuron_parameters(nn.Sequential(made("dsn"))) == neuron_parameters(nn.Sequential(DSN(channels=4)))


def test_sub_steps_of_sub_steps_are_one_after_the_other() -> None:
    node = made({"type": "sub_steps", "m": 2, "of": LEAKY}, 3)
    assert torch.equal(node.functional(X)[0], made(LEAKY, 6).functional(X)[0])
    assert node.operations() == (6, 6)
    assert [row.neuron_steps for row in ledger(nn.Sequential(node), X).rows] == [6 * X.numel()]


def test_the_neuron_may_be_a_name_a_mapping_or_what_builds_one() -> None:
    for of in ("lif", {"type": "lif"}, LIF, partial(LIF, tau=2.0)):
        assert isinstance(SubSteps(of=of, m=2, channels=3).neuron, LIF)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 0, "of": "lif"}, "SubSteps: m is 0, it must be at least 1"),
        ({"m": 2, "of": partial(LIF, tau=0.5)}, "LIF: tau is 0.5"),
        ({"m": 2, "of": lambda channels: nn.ReLU()}, "of builds a ReLU, expected a sj_lang.neuron.Node"),
    ],
)
def test_what_it_cannot_wrap_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubSteps(channels=3, **options)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        ("sub_steps", r"model\.neuron\.m: missing"),
        ("{type: sub_steps, m: 4}", r"model\.neuron\.of: missing; expected a neuron"),
        ("{type: sub_steps, m: 4, of: lfi}", r"model\.neuron\.of\.type: no neuron 'lfi'; did you mean 'lif'"),
        (
            "{type: sub_steps, m: 4, of: {type: lif, tua: 3}}",
            r"model\.neuron\.of\.tua: unknown key; did you mean 'tau'",
        ),
        ("{type: sub_steps, m: 4, of: {type: lif, tau: x}}", r"model\.neuron\.of\.tau: expected a number"),
        ("{type: sub_steps, m: 4, of: 3}", r"model\.neuron\.of: expected a neuron"),
        ("{type: sub_steps, m: 4, of: lif, channels: 3}", r"model\.neuron\.channels: is handed in by the program"),
    ],
)
def test_a_recipe_is_refused_at_the_place_of_its_mistake(neuron: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("five/digits", ["runs=null", "seeds=null", f"model.neuron={neuron}"])


def test_a_neuron_that_is_not_available_is_refused_inside_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "why_no_psn", lambda: "this SpikingJelly has none")
    fresh = plugins.Registry()
    for entry in entry_points(group="sj_lang"):
        fresh.load(entry)
    with (
        plugins.use(fresh),
        pytest.raises(UserError, match=r"neuron\.of\.type: .*not available here: this SpikingJelly"),
    ):
        build.part("neuron", {"type": "sub_steps", "m": 4, "of": {"type": "psn", "T": 8}})


def test_swap_takes_it_as_a_mapping() -> None:
    net = nn.Sequential(nn.Linear(5, 4), spikingjelly("neuron").LIFNode(step_mode="m"))
    with pytest.raises(UserError, match="of='lif'; expected a class"):
        swap(net, "sub_steps", example=torch.rand(3, 2, 5), m=2, of="lif")
    report = swap(net, {"type": "sub_steps", "m": 2, "of": "lif"}, example=torch.rand(3, 2, 5))
    assert len(report.swapped) == 1
    assert isinstance(net[1], SubSteps)


def test_the_list_of_neurons_says_that_it_can_what_the_neuron_inside_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "neuron"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "sub_steps" in line and "inner" in line)
    assert row.count("inner") == 5
    assert cli.main(["plugins", "neuron/sub_steps"]) == 0
    assert capsys.readouterr().out.count("as the neuron in `of`") == 6
