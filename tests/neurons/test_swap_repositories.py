"""Layouts and habits of repositories that do not use SpikingJelly, in small nets of their kind."""

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
layer = spikingjelly("layer")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class LIFSpike(nn.Module):
    """Time on an axis of its own, and the threshold on an attribute of its own."""

    axis = 1

    def __init__(self) -> None:
        super().__init__()
        self.thresh = 1.0

    def forward(self, x: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(x.select(self.axis, 0)), []
        for x_t in x.unbind(self.axis):
            potential = potential / 2 + x_t
            spikes.append((potential >= self.thresh).to(x))
            potential = potential * (1 - spikes[-1])
        return torch.stack(spikes, self.axis)


class TimeFirst(LIFSpike):
    axis = 0


class StepLIF(LIFSpike):
    """A step per call."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.mem = self.mem / 2 + x
        spikes = (self.mem >= self.thresh).to(x)
        self.mem = self.mem * (1 - spikes)
        return spikes


class Folded(nn.Module):
    """Convolutions of [T * B, C, ...] whose node gets just that, with T = 4."""

    def __init__(self, conv: nn.Module, pool: nn.Module, node: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool, self.node = conv, pool, node

    def forward(self, x: Tensor) -> Tensor:
        x.unsqueeze_(0)  # what it was given, in place
        return self.node(self.pool(self.conv(x.expand(4, *x.shape[1:]).flatten(0, 1))))


@pytest.mark.parametrize("asked", [None, "s", "m"])
def test_time_behind_the_batch_is_no_wish(asked: Any) -> None:
    net = nn.Sequential(nn.Linear(5, 6), LIFSpike())
    (place,) = swap(net, "dsn", example=torch.rand(2, 4, 5), of=LIFSpike, step_mode=asked).left
    assert place.reason == "one entry of axis 1 of its input [2, 4, 6] changes the next; a node's time is axis 0"


@pytest.mark.parametrize(
    ("node", "asked", "takes"),
    [(StepLIF(), "m", 'a step per call, step_mode="s", not "m"'), (TimeFirst(), "s", "a sequence per call")],
)
def test_a_step_mode_that_a_trial_contradicts(node: nn.Module, asked: Any, takes: str) -> None:
    net = nn.Sequential(nn.Linear(5, 6), node)
    (place,) = swap(net, "dsn", example=torch.rand(4, 3, 5), of=type(node), step_mode=asked).left
    assert takes in place.reason


@pytest.mark.parametrize(
    ("conv", "pool", "size"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(2), (16, 8)),  # the height is 8 too, then
        (nn.Conv2d(3, 8, 3, padding=1), nn.Identity(), (8, 6)),
        (nn.Conv1d(3, 8, 3, padding=1), nn.AvgPool1d(2), (12,)),
    ],
    ids=["pooled", "as tall as deep", "one dimension"],
)
@pytest.mark.parametrize("axis", [None, 2])
def test_channels_where_a_sequence_has_its_batch(conv: nn.Module, pool: nn.Module, size: Any, axis: Any) -> None:
    """With one sample, time and batch together look like time."""
    net = Folded(conv, pool, TimeFirst())
    example = 3 * torch.rand(1, 3, *size)
    (place,) = swap(net, "dsn", example=example, of=TimeFirst, axis=axis).left
    assert f"the 8 features of {type(conv).__name__} 'conv' are axis 1 of its input [4, 8, " in place.reason
    assert "is axis 0 time and batch together?" in place.reason
    assert example.shape == (1, 3, *size), "the example was changed"


def test_a_net_that_changes_its_input_in_place() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.node = nn.Linear(5, 6), TimeFirst()

        def forward(self, x: Tensor) -> Tensor:
            return self.node(self.fc(x.unsqueeze_(0).expand(4, -1, -1)))

    example = 3 * torch.rand(2, 5)
    report = swap(Net(), "dsn", example=example, of=TimeFirst)
    assert [place.channels for place in report.swapped] == [6]
    assert example.shape == (2, 5)


def test_neurons_in_a_module_called_layers_are_listed() -> None:
    node = type("LIFSpike", (LIFSpike,), {"__module__": "models.layers"})
    net = nn.Sequential(nn.Linear(5, 6), node(), layer.Linear(6, 6))
    with pytest.raises(UserError, match=r"such as of=LIFSpike: models\.layers\.LIFSpike \(1: 1, \.\.\.\)$"):
        swap(net, "dsn", example=torch.rand(2, 4, 5))


def test_keywords_that_the_new_node_does_not_take() -> None:
    """A loop that resets its nodes with `init=True` at the first step, as online training does."""

    class Online(StepLIF):
        def forward(self, x: Tensor, init: bool = False) -> Tensor:
            self.mem = 0.0 if init else self.mem
            return super().forward(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.node = nn.Linear(5, 6), Online()

        def forward(self, x: Tensor) -> Tensor:
            more = [{"init": t == 0} if isinstance(self.node, Online) else {} for t in range(len(x))]
            return torch.stack([self.node(self.fc(x_t), **now) for x_t, now in zip(x, more, strict=True)])

    (place,) = swap(Net(), "dsn", example=3 * torch.rand(4, 2, 5), of=Online).left
    assert place.reason == "the net calls it with init=, which DSN does not take"


def test_a_place_that_the_example_hands_nan() -> None:
    """Attention that is scaled by firing rates which it only knows after a step of training."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.first, self.last = nn.Linear(5, 6), TimeFirst(), TimeFirst()
            self.register_buffer("rate", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.first(self.fc(x))
            if self.training:
                self.rate = spikes.detach().mean()
            return self.last(spikes / self.rate)

    net, example = Net(), 9 * torch.rand(4, 2, 5)
    (place,) = swap(net, "dsn", example=example, of=TimeFirst).left
    assert place.name == "last"
    assert place.reason.startswith("the example hands it NaN or infinity, which shows nothing of it; if running")
    net.train()(example)
    assert [place.name for place in swap(net, "dsn", example=example, of=TimeFirst).swapped] == ["last"]


class ResetsItself(nn.Module):
    """Calls its layers once per step, and sets what its own nodes remember before the first."""

    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.fc, self.node, self.resets = nn.Linear(5, 6), StepLIF(), resets

    def forward(self, x: Tensor) -> Tensor:
        for node in (one for one in self.modules() if isinstance(one, StepLIF) and self.resets):
            node.mem = 0.0
        return torch.stack([self.node(self.fc(x_t)) for x_t in x])


@pytest.mark.parametrize(
    ("net", "unlike"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 6), TimeFirst()), True),
        (lambda: ResetsItself(resets=True), True),
        (lambda: ResetsItself(resets=False), False),
    ],
    ids=["a sequence from rest", "the net resets it", "nobody resets it"],
)
def test_a_node_that_starts_from_rest_at_each_input(net: Callable[[], nn.Module], unlike: bool) -> None:
    """SpikingJelly's nodes, and ours, go on until they are reset."""
    torch.manual_seed(0)  # with some weights nothing of an input is left after it
    (place,) = swap(net(), "dsn", example=5 * torch.rand(4, 99, 5), of=(TimeFirst, StepLIF)).swapped
    assert ("functional.reset_net(net) between inputs" in place.note) == unlike
