"""What the new nodes start as: the old integrators, with their thresholds and surrogates."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.errors import UserError
from sj_lang.hf import shield
from sj_lang.swap import swap

pytest.importorskip("sj_lang_neurons")
shield()
functional, neuron, surrogate = map(spikingjelly, ("functional", "neuron", "surrogate"))


@pytest.mark.parametrize("new", ["dsn", "bpsn"])
def test_what_keeps_a_network_working_is_the_default(new: str) -> None:
    net = nn.Sequential(neuron.LIFNode(tau=4.0, v_threshold=0.5, surrogate_function=surrogate.ATan(), step_mode="m"))
    swap(net, new, example=9 * torch.rand(4, 2, 5))
    node = net[0]
    assert (node.levels, node.v_threshold, type(node.surrogate_function)) == (1, 0.5, surrogate.ATan)
    if new == "dsn":
        assert node.alpha_init == 0.75
        alpha = node.bias.sigmoid() ** (1 / node.tau)
        torch.testing.assert_close(alpha, torch.full((5,), 0.75))
        assert not node.weight.any()
    else:
        assert node.variant == "G"


def test_the_threshold_follows_the_units_of_the_potential() -> None:
    """Without `decay_input` the old potential is 1 / (1 - alpha) times H; IF never leaks."""
    nodes = [neuron.LIFNode(tau=4.0, decay_input=False, step_mode="m"), neuron.IFNode(step_mode="m")]
    net = nn.Sequential(*nodes, neuron.ParametricLIFNode(init_tau=4.0, step_mode="m"))
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5))
    assert net[0].v_threshold == pytest.approx(0.25)
    assert net[1].v_threshold == pytest.approx(1 - net[1].alpha_init)
    assert net[2].alpha_init == pytest.approx(0.75)
    x = 2 * torch.rand(6, 3, 5)
    below = 0.1 * x  # nothing fires, so both are the same leaky sum
    old = neuron.LIFNode(tau=4.0, decay_input=False, step_mode="m", store_v_seq=True)
    old(below)
    new = net[0]
    with torch.no_grad():
        new.weight.zero_()
    new.store_v_seq = True
    new(below)
    torch.testing.assert_close(new.v_seq, old.v_seq * new.v_threshold / old.v_threshold)


@pytest.mark.parametrize("name", ["ATan", "Erf", "PiecewiseExp", "PiecewiseQuadratic", "Sigmoid", "SoftSign"])
@pytest.mark.parametrize("new", ["dsn", "bpsn"])
def test_the_surrogate_is_as_wide_in_the_units_of_the_new_potential(new: str, name: str) -> None:
    """The first step of IF: H is half the old potential, and the gradient is the same."""
    net = nn.Sequential(neuron.IFNode(surrogate_function=getattr(surrogate, name)(), step_mode="m"))
    x = torch.linspace(-1, 3, 41).view(1, 1, -1)
    old, leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    net(old).sum().backward()
    functional.reset_net(net)
    swap(net, new, example=x)
    net(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, old.grad)


@pytest.mark.parametrize("chosen", ["Sigmoid", surrogate.Sigmoid(alpha=5.0)], ids=["name", "module"])
def test_a_surrogate_of_the_users_choice(chosen: Any) -> None:
    net = nn.Sequential(neuron.LIFNode(step_mode="m"))
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5), surrogate_function=chosen)
    assert (net[0].levels, type(net[0].surrogate_function)) == (1, surrogate.Sigmoid)
    with pytest.raises(UserError, match="place '0': DSN: a surrogate_function fires binary spikes and needs n = 1"):
        swap(nn.Sequential(neuron.LIFNode()), "dsn", example=torch.rand(2, 5), surrogate_function=chosen, n=2)


def test_bpsn_starts_as_the_old_integrator() -> None:
    net = nn.Sequential(neuron.LIFNode(tau=4.0, step_mode="m"))
    swap(net, "bpsn", example=9 * torch.rand(4, 2, 5), backend="torch")
    node = net[0]
    assert node.alpha_init == 0.75
    node.store_v_seq = True
    x = torch.rand(1, 2, 5).repeat(4, 1, 1)
    node(x)
    # H = (1 - alpha) x + alpha times the mean of the past
    torch.testing.assert_close(node.v_seq[1:], x[1:])
    torch.testing.assert_close(node.v_seq[0], 0.25 * x[0])


class Own(nn.Module):
    """A leaky neuron as repositories write it, without names that SpikingJelly has."""

    def __init__(self, leak: float, fires_at: float, resets: bool = True) -> None:
        super().__init__()
        self.mem: Any = 0.0
        self.leak, self.fires_at, self.resets = leak, fires_at, resets

    def forward(self, x: Tensor) -> Tensor:
        self.mem = self.leak * self.mem + 0.5 * x
        spikes = (self.mem > 0.5 * self.fires_at).to(x)
        self.mem = self.mem * (1 - spikes)
        return spikes


class OwnSequence(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.mem = 0.0
        return torch.stack([super(OwnSequence, self).forward(x_t) for x_t in x])


@pytest.mark.parametrize("kind", [Own, OwnSequence])
@pytest.mark.parametrize(("leak", "fires_at"), [(0.25, 0.5), (0.9, 3.0), (1.0, 1.0)])
def test_the_leak_and_the_threshold_of_a_class_of_ones_own(kind: Any, leak: float, fires_at: float) -> None:
    """Inputs at which it begins to fire show both."""
    net = nn.Sequential(nn.Identity(), kind(leak, fires_at))
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5), of=kind)
    alpha = leak if leak < 1 else 0.5
    assert net[1].alpha_init == pytest.approx(alpha, abs=1e-4)
    assert net[1].v_threshold == pytest.approx(fires_at * (1 - leak if leak < 1 else alpha), rel=1e-3)
    functional.reset_net(net)
    near = fires_at * torch.linspace(0.5, 1.5, 20).view(1, 4, 5)
    if kind is OwnSequence and leak < 1:
        assert torch.equal(net(near), kind(leak, fires_at)(near))
        functional.reset_net(net)
        x = fires_at * (1 - leak) * torch.rand(4, 2, 5)  # nothing fires, and then all does
        last = 2 * fires_at * torch.ones(1, 2, 5)
        assert torch.equal(net(torch.cat((x, last))), kind(leak, fires_at)(torch.cat((x, last))))


def test_a_class_of_ones_own_that_does_not_leak_like_that() -> None:
    class Squares(OwnSequence):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.square())

    net = nn.Sequential(nn.Identity(), Squares(0.5, 2.0))
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5), of=Squares)
    assert (net[1].alpha_init, net[1].v_threshold) == (None, 1.0)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_net_that_is_fed_the_same_at_each_step_starts_with_a_slow_leak(step_mode: Any) -> None:
    """A leak of .5 settles within a few of 64 steps, and what a neuron fires then says one bit. The
    second node is fed spikes, also if the first one does not fire in the example."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(), nn.Linear(6, 6), neuron.LIFNode())
            functional.set_step_mode(self, step_mode)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if step_mode == "m" else torch.stack([self.net(x_t) for x_t in x])

    def started(example: Tensor, new: str = "dsn", **options: Any) -> tuple[list[float], str]:
        net = Net()
        report = str(swap(net, new, example=example, **options))
        return [net.net[1].alpha_init, net.net[3].alpha_init], report

    image = 9 * torch.rand(2, 5)
    assert started(0 * image.expand(64, -1, -1))[0] == [1 - 1 / 64, 0.5]
    leaks, report = started(image.expand(64, -1, -1))
    assert leaks == [1 - 1 / 64, 0.5]
    assert "the net is fed the same at each of 64 steps" in report
    for other, leak in ((image.expand(4, -1, -1), 0.75), (9 * torch.rand(64, 2, 5), 0.5)):
        leaks, report = started(other)
        assert leaks == [leak, 0.5]
        assert "fed the same" not in report
    assert started(image.expand(64, -1, -1), alpha_init=0.6)[0] == [0.6, 0.6]
    leaks, report = started(image.expand(64, -1, -1), "bpsn", direction="forward")
    assert leaks == [1 - 1 / 64, 0.5]
    assert "the net is fed the same at each of 64 steps" in report
    assert started(image.expand(64, -1, -1), "bpsn", direction="forward", variant="G")[0] == [0.5, 0.5]


@pytest.mark.parametrize("T", [4, 64])
def test_bpsn_in_a_net_that_is_fed_the_same_starts_as_dsn_does(T: int) -> None:
    def fresh() -> nn.Sequential:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(), nn.Linear(6, 6), neuron.LIFNode())
        nn.init.uniform_(net[2].weight, -1, 2)
        functional.set_step_mode(net, "m")
        return net

    example = 9 * torch.rand(2, 5).expand(T, -1, -1)
    bpsn, dsn = fresh(), fresh()
    report = swap(bpsn, "bpsn", example=example)
    assert "  3: LIFNode -> BPSN, variant A, direction forward, 6 channels (fires " in str(report)
    swap(dsn, "dsn", example=example)
    x = 9 * torch.rand(7, 2, 5)
    assert torch.equal(bpsn(x), dsn(x))
    assert bpsn(x).any()
    both = fresh()
    assert ", variant G, 6 channels" in str(swap(both, "bpsn", example=example, direction="both"))
    assert (both[3].variant, both[3].direction) == ("G", "both")
    changing = fresh()
    swap(changing, "bpsn", example=x)
    assert (changing[3].variant, changing[3].direction) == ("G", "both")


@pytest.mark.parametrize("T", [4, 64])
def test_a_slow_leak_fires_for_the_same_constant_inputs_within_the_steps(T: int) -> None:
    net = nn.Sequential(nn.Identity(), neuron.LIFNode(tau=2.0, v_threshold=0.5, step_mode="m"))
    x = torch.tensor([0.2, 0.49, 0.54, 0.7, 2.0]).expand(T, 1, -1)
    swap(net, "dsn", example=x)
    fired = net(x)[:, 0]
    assert fired.any(0).tolist() == [False, False, True, True, True]
    begins = fired.argmax(0)[2:].tolist()
    assert begins == sorted(begins, reverse=True)
    assert len(set(begins)) == 3


class Branches(nn.Module):
    """Two nodes that the image reaches alone, and one that a residual reaches too."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(neuron.LIFNode(step_mode="m") for _ in range(3))
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, other = self.first(x), self.second(x)
        other += self.nodes[0](x)
        x += self.nodes[1](self.second(x))
        return self.nodes[2](x + other)


def test_only_nodes_that_the_repeated_input_reaches_alone_are_slow() -> None:
    """Whatever fires in the example, in one call or in several, and if inputs change in place."""
    image = 9 * torch.rand(2, 5).expand(16, -1, -1)
    for patterns in ((None,), ("0$", "1$", "2$"), ("2$", "1$", "0$")):
        net = Branches()
        for pattern in patterns:
            swap(net, "dsn", example=image.clone(), like=pattern)
        assert [node.alpha_init for node in net.nodes] == [1 - 1 / 16, 1 - 1 / 16, 0.5]


def test_rounding_is_no_change_of_the_input() -> None:
    still = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(0))
    for rounding, repeated in ((1e-7, 64), (1e-3, 0)):
        net = nn.Sequential(nn.Linear(8, 6), neuron.LIFNode(step_mode="m"))
        x = still * (1 + rounding * torch.rand(64, 1, 1, generator=torch.Generator().manual_seed(1)))
        assert [place.repeated for place in swap(net, "dsn", example=x).swapped] == [repeated]
