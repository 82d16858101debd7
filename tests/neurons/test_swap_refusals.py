"""Swapping in networks that are not as they look: a right node in place, or a reason why not."""

import sys
import types
import warnings
from collections.abc import Callable
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
functional, layer, neuron, surrogate = map(spikingjelly, ("functional", "layer", "neuron", "surrogate"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class OwnLIF(nn.Module):
    """A neuron as repositories write it: a step per call, no step_mode, no reset."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v * 0.5 + x
        spikes = (self.v >= 1).to(x)
        self.v = self.v * (1 - spikes)
        return spikes


class OwnSequenceLIF(nn.Module):
    """The same over a sequence, from rest at each call."""

    axis = 0

    def forward(self, x: Tensor) -> Tensor:
        node = OwnLIF()
        return torch.stack([node(x_t) for x_t in x.unbind(self.axis)], self.axis)


class BatchFirstLIF(OwnSequenceLIF):
    axis = 1


class FoldedLIF(nn.Module):
    """It is fed [T * B, C, ...] and unfolds it, T = 4."""

    def forward(self, x: Tensor) -> Tensor:
        return OwnSequenceLIF()(x.unflatten(0, (4, -1))).flatten(0, 1)


class Stateless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x)


class TernaryLIF(nn.Module):
    """Forgets so much that only inputs close to its threshold tell one call from the next."""

    step_by_step = True

    def __init__(self) -> None:
        super().__init__()
        self.v = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if not self.step_by_step:
            return torch.stack([self.step(x_t) for x_t in x])
        return self.step(x)

    def step(self, x: Tensor) -> Tensor:
        v = self.v + x
        spikes = v.sign() * (v.abs() >= 0.5)
        self.v = 0.25 * v * (1 - spikes.abs())
        return spikes


class TernarySequenceLIF(TernaryLIF):
    step_by_step = False


class Looped(nn.Module):
    """A net that calls its layers once per step."""

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.conv, self.node = nn.Conv2d(1, 6, 3, padding=1), node

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.node(self.conv(x_t)) for x_t in x])


#: [T, B, C, H, W]
IMAGES = 8 * torch.rand(4, 3, 1, 5, 7, generator=torch.Generator().manual_seed(0))


def test_the_step_mode_of_a_class_that_does_not_say_it() -> None:
    net = Looped(OwnLIF())
    (place,) = swap(net, "dsn", example=IMAGES, of=OwnLIF).swapped
    assert (place.channels, net.node.step_mode) == (6, "s")
    functional.reset_net(net)
    changed = IMAGES.clone()
    changed[:, 0] += 1
    outputs = []
    for x in (IMAGES, changed):
        functional.reset_net(net)
        outputs.append(net(x))
    assert torch.equal(outputs[0][:, 1:], outputs[1][:, 1:]), "a sample changed another sample"

    net = nn.Sequential(OwnSequenceLIF())
    (place,) = swap(net, "dsn", example=torch.randn(4, 3, 6), of=OwnSequenceLIF).swapped
    assert (place.channels, net[0].step_mode) == (6, "m")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (BatchFirstLIF(), "one entry of axis 1 of its input [4, 3, 6] changes the next; a node's time is axis 0"),
        (FoldedLIF(), "axis 0 of its input [4, 3, 6] seems to hold time and batch together; fold them apart"),
        (Stateless(), "its step mode is not clear: no step of its input changes a later one"),
        (nn.Dropout(0.5), "its step mode is not clear: no step"),
    ],
)
def test_an_unclear_step_mode_is_no_guess(node: nn.Module, reason: str) -> None:
    net = nn.Sequential(nn.Identity(), node)
    x = torch.rand(4, 3, 6).repeat_interleave(2, 0) if isinstance(node, FoldedLIF) else torch.rand(4, 3, 6)
    (place,) = swap(net, "dsn", example=x, of=type(node)).left
    assert place.reason.startswith(reason.replace("[4, 3, 6]", str(list(x.shape))))
    assert net[1] is node


def test_a_node_that_hardly_remembers() -> None:
    x = torch.randn(4, 3, 6, 2)
    for node, mode in ((TernaryLIF(), "s"), (TernarySequenceLIF(), "m")):
        net = nn.Sequential(nn.Identity(), node)
        report = swap(net, "bpsn", example=x, of=type(node), spikes="ternary", direction="forward")
        assert [place.reason for place in report.left] == []
        assert net[1].step_mode == mode


@pytest.mark.parametrize("line", ["activation_based", "clock_driven"])
def test_a_copy_of_spikingjelly_inside_a_repository(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = types.ModuleType(f"theirs.spikingjelly.{line}.neuron")
    members = {"__module__": copied.__name__, "tau": 4.0, "v_threshold": 0.5, "decay_input": True}
    base = type("BaseNode", (OwnSequenceLIF,), dict(members))
    names = {"activation_based": "LIFNode", "clock_driven": "MultiStepLIFNode"}
    kind = type(names[line], (type("LIFNode", (base,), members),), {"forward": base.forward, **members})
    copied.BaseNode = base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, copied.__name__, copied)
    net = nn.Sequential(kind())
    (place,) = swap(net, "dsn", example=9 * torch.rand(4, 2, 5)).swapped
    assert (place.was, net[0].step_mode, net[0].alpha_init) == (names[line], "m", 0.75)


def test_the_step_mode_that_was_asked_for() -> None:
    net = nn.Sequential(nn.Identity(), Stateless())
    assert swap(net, "dsn", example=torch.rand(4, 3, 6), of=Stateless, step_mode="s").swapped[0].channels == 3
    with pytest.raises(UserError, match='step_mode=\'x\'; expected "s" or "m"'):
        swap(net, "dsn", example=torch.rand(4, 3, 6), step_mode="x")  # type: ignore[arg-type]


def test_features_that_lie_behind_the_channel_axis() -> None:
    net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="m"))
    (place,) = swap(net, "dsn", example=torch.rand(4, 2, 7, 5)).swapped
    assert (place.channels, net[1].axis) == (6, -1)
    net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="s"))
    (place,) = swap(net, "dsn", example=torch.rand(4, 2, 5)).left
    assert 'but it is in step_mode "s", whose channels are axis 1; set it to "m"' in place.reason


class Readout(nn.Module):
    """The head of a spiking Q-network: it integrates and returns its potential."""

    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(0)


class Ternary(nn.Module):
    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(0).sign()


class Pair(nn.Module):
    step_mode = "m"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_place_whose_output_is_no_spikes() -> None:
    net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="m"), nn.Linear(6, 3), Readout())
    nn.init.constant_(net[0].bias, 3.0)
    head = net[3]
    report = swap(net, "dsn", example=9 * torch.rand(4, 2, 5), of=(neuron.LIFNode, Readout))
    assert [place.name for place in report.swapped] == ["1"]
    assert report.left[0].reason.startswith("its output is not spikes: it has fractions, from ")
    assert net[3] is head
    (place,) = swap(nn.Sequential(Pair()), "dsn", example=torch.rand(4, 2, 5), of=Pair).left
    assert place.reason == "it returns a tuple, and a node returns its spikes alone"


def test_a_place_that_never_fires_is_a_readout() -> None:
    net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="m", v_threshold=float("inf"), store_v_seq=True))
    (place,) = swap(net, "dsn", example=9 * torch.rand(4, 2, 5)).left
    assert place.reason == "its threshold is inf, so it never fires: it is read for its potential"


def test_ternary_spikes_need_a_ternary_node() -> None:
    x = torch.randn(4, 2, 5)
    (place,) = swap(nn.Sequential(Ternary()), "dsn", example=x, of=Ternary).left
    assert place.reason == "it fires from -1 to 1, and DSN from 0 to 1"
    assert swap(nn.Sequential(Ternary()), "bpsn", example=x, of=Ternary, spikes="ternary").swapped


class ReadsPotential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = neuron.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        self.last(self.first(x))
        return self.last.v


def test_a_net_that_does_not_run_with_the_new_nodes_is_as_it_was() -> None:
    net = ReadsPotential()
    nodes = net.first, net.last
    with pytest.raises(UserError, match=r"no attribute 'v'.* It fails at: last\. The network is as it was"):
        swap(net, "dsn", example=torch.rand(4, 2, 5))
    assert (net.first, net.last) == nodes
    assert net(torch.rand(4, 2, 5)).shape == (2, 5)
    assert swap(net, "dsn", example=torch.rand(4, 2, 5), like="first").swapped


def test_silent_places_are_reported() -> None:
    net = nn.Sequential(neuron.LIFNode(step_mode="m", v_threshold=0.4))
    with pytest.warns(UserWarning, match="1 of 1 places fired on the example and are silent now"):
        report = swap(net, "dsn", example=torch.rand(4, 2, 5), n=1, v_threshold=9.0)
    (place,) = report.silenced
    assert place.rate_before is not None
    assert place.rate_before > 0
    assert place.rate_after == 0
    assert "-> 0.000, silent)" in str(report)


def test_a_sequence_of_another_length_is_flagged() -> None:
    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nodes = nn.ModuleList(neuron.LIFNode(step_mode="m") for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.nodes[1](self.nodes[0](x))
            return self.nodes[2](x.flatten(0, 1))

    places = swap(Folds(), "dsn", example=9 * torch.rand(4, 2, 5, 6)).places
    notes = ["T is" in place.note and place.note for place in places]
    assert notes == [False, False, "T is 8 here and 4 elsewhere: does axis 0 hold more than time?"]


def test_bpsn_on_input_that_is_the_same_at_each_step() -> None:
    x = torch.rand(1, 2, 5).repeat(4, 1, 1) * 9
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap(nn.Sequential(neuron.LIFNode(step_mode="m")), "bpsn", example=x, variant="R")
    assert 'variant="R" suppresses input that is the same at each step' in str(caught[0].message)
    for options, variant in (({}, "A"), ({"direction": "both"}, "G")):
        net = nn.Sequential(neuron.LIFNode(step_mode="m"))
        swap(net, "bpsn", example=x, **options)
        assert net[0].variant == variant


def test_none_found_names_what_looks_like_neurons() -> None:
    with pytest.raises(UserError, match=r"of= takes their classes, such as of=OwnLIF: .*OwnLIF \(1: node, \.\.\.\)"):
        swap(Looped(OwnLIF()), "dsn", example=IMAGES)


def clock_driven() -> Any:
    return pytest.importorskip("spikingjelly.clock_driven", reason="in SpikingJelly 0.0.0.0.14 only")


@pytest.mark.parametrize("multi", [False, True])
def test_clock_driven(multi: bool) -> None:
    clock_driven()
    from spikingjelly.clock_driven import functional as old_functional
    from spikingjelly.clock_driven import neuron as old_neuron
    from spikingjelly.clock_driven import surrogate as old_surrogate

    assert "spikingjelly.clock_driven.neuron" in sys.modules
    kind = old_neuron.MultiStepLIFNode if multi else old_neuron.LIFNode
    node = kind(tau=4.0, surrogate_function=old_surrogate.ATan())
    forward: Callable[[nn.Module, Tensor], Tensor] = (
        (lambda net, x: net.node(net.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))) if multi else Looped.forward
    )
    net = type("Net", (Looped,), {"forward": forward})(node)
    (place,) = swap(net, "dsn", example=IMAGES).swapped
    assert (place.channels, net.node.step_mode, net.node.alpha_init) == (6, "m" if multi else "s", 0.75)
    first = net(IMAGES)
    old_functional.reset_net(net)
    assert torch.equal(net(IMAGES), first)
    net(IMAGES).sum().backward()
    assert net.node.bias.grad.isfinite().all()


def test_a_part_of_the_net_that_is_reset_alone() -> None:
    """SpikingJelly 2 remembers what it reset, for each module that `reset_net` was called with."""
    net = nn.Sequential(nn.Sequential(nn.Linear(5, 5), neuron.LIFNode(step_mode="m")))
    x = 9 * torch.rand(4, 2, 5)
    net(x)
    functional.reset_net(net[0])
    swap(net, "dsn", example=x)
    first = net(x)
    functional.reset_net(net[0])
    assert torch.equal(net(x), first)


def test_small_messages() -> None:
    net = nn.Sequential(layer.Linear(5, 5), neuron.LIFNode())
    functional.set_step_mode(net, "m")
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5))
    with pytest.raises(ValueError, match="DSN: 1 states were handed in, it has 2: h, tail"):
        net[1].multi_step_functional_forward((torch.rand(4, 2, 5),), (None,))


def test_silence_has_no_sign() -> None:
    net = nn.Sequential(neuron.LIFNode(step_mode="m"))
    swap(net, "dsn", example=9 * torch.rand(4, 2, 5), n=4, backend="torch")
    x = torch.cat((torch.full((2, 2, 5), -0.0), -torch.rand(2, 2, 5)))
    assert not torch.signbit(net(x)).any()
