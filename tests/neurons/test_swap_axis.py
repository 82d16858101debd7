"""Swapping in networks with tokens before features, [T, B, L, D]: the axis of the channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sj_lang import cli
from sj_lang.compat import spikingjelly
from sj_lang.errors import UserError
from sj_lang.hf import shield
from sj_lang.swap import swap

pytest.importorskip("sj_lang_neurons")
shield()
functional, layer, neuron = map(spikingjelly, ("functional", "layer", "neuron"))


def lif() -> nn.Module:
    node: nn.Module = neuron.LIFNode(step_mode="m")
    return node


def tokens(length: int, width: int = 8, batch: int = 2) -> Tensor:
    """[T, B, L, D]"""
    generator = torch.Generator().manual_seed(length)
    return 4 * torch.rand(4, batch, length, width, generator=generator)


class Block(nn.Module):
    """A block of a spiking transformer: norms see [T * B, D, L], neurons [T, B, L, D]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(4))
        self.nodes = nn.ModuleList(lif() for _ in range(5))

    def project(self, x: Tensor, number: int) -> Tensor:
        linear = (self.query, self.key, self.value, self.out)[number]
        y = self.norms[number](linear(x.flatten(0, 1)).transpose(1, 2))
        return y.transpose(1, 2).reshape(x.shape).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        projected = [self.project(x, number) for number in range(3)]
        q, k, v = (self.nodes[number](y) for number, y in enumerate(projected))
        attended = self.nodes[3](q @ k.transpose(-1, -2) @ v)
        return x + self.nodes[4](self.project(attended, 3))


def learns(net: nn.Module, x: Tensor) -> None:
    functional.reset_net(net)
    y = net(x)
    y.sum().backward()
    assert y.isfinite().all()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    functional.reset_net(net)


@pytest.mark.parametrize("new", ["dsn", "bpsn"])
@pytest.mark.parametrize("example", [tokens(7), tokens(8), [tokens(7), tokens(5)]], ids=["7", "8 as wide", "two"])
def test_a_transformer_with_tokens_before_features(new: str, example: Any) -> None:
    net = nn.Sequential(Block(), nn.Linear(8, 3))
    report = swap(net, new, example=example)
    # then attention says nothing, and two axes fit
    if isinstance(example, Tensor) and example.shape[2] == 8:
        assert [place.name for place in report.left] == ["0.nodes.3"]
        reason = "axes 2 and 3 of its input [4, 2, 8, 8] all fit the 8 features of BatchNorm1d '0.norms.2'; swap again"
        assert report.left[0].reason.startswith(reason)
        report = swap(net, new, example=example, axis=-1)
    assert not report.left
    assert {(place.channels, place.axis) for place in report.swapped} == {(8, -1)}
    for x in (tokens(7), tokens(11), tokens(1), tokens(9, batch=5)):
        learns(net, x)


def test_the_report_says_which_axis_and_why() -> None:
    net = nn.Sequential(nn.Linear(5, 6), lif(), nn.Linear(6, 6), nn.LayerNorm(6), lif(), lif(), nn.Linear(6, 2))
    lines = str(swap(net, "dsn", example=9 * torch.rand(4, 2, 7, 5))).splitlines()
    assert lines[1].startswith("  1: LIFNode -> DSN, 6 channels on axis -1 (the 6 features of Linear '0') (fires ")
    assert lines[2].startswith("  4: LIFNode -> DSN, 6 channels on axis -1 (the 6 features of LayerNorm '3') (fires ")
    net = nn.Sequential(lif(), nn.Linear(5, 6))
    assert "5 channels on axis -1 (the 5 inputs of Linear '1')" in str(swap(net, "dsn", example=torch.rand(4, 2, 7, 5)))
    (place,) = swap(nn.Sequential(lif()), "dsn", example=torch.rand(4, 2, 7, 5)).swapped
    note = "nothing before or after it says which axis of [4, 2, 7, 5] its channels are; axis 2 is taken"
    assert (place.axis, place.channels, place.note) == (2, 7, note)


def test_images_as_wide_as_they_have_channels() -> None:
    net = nn.Sequential(
        *(layer.Conv2d(1, 8, 3, padding=1), lif(), layer.Conv2d(8, 8, 3, padding=1), layer.BatchNorm2d(8)),
        *(layer.MaxPool2d(2), lif(), layer.Conv2d(8, 4, 3, padding=1), lif(), layer.Flatten(), lif()),
    )
    functional.set_step_mode(net, "m")
    places = swap(net, "dsn", example=9 * torch.rand(4, 2, 1, 8, 8)).swapped
    assert [(place.axis, place.channels, place.note) for place in places] == [
        (2, 8, ""), (2, 8, ""), (2, 4, ""), (2, 64, "")
    ]  # fmt: skip


class Heads(nn.Module):
    """Hands its node [T, B, H, L, D / H], of which no axis has the D features of the Linear."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.linear, self.node, self.last = nn.Linear(8, 8), lif(), last

    def forward(self, x: Tensor) -> Tensor:
        split = self.linear(x).unflatten(-1, (2, 4))  # [T, B, L, H, D / H]
        y: Tensor = self.node(split if self.last else split.transpose(2, 3))
        return y


def test_features_that_lie_on_two_axes() -> None:
    (place,) = swap(Heads(last=False), "dsn", example=tokens(7)).swapped
    assert (place.axis, place.channels) == (2, 2)
    assert place.note == "the 8 features of Linear 'linear' lie on its axes 2 and 4; axis 2 is taken"
    (place,) = swap(Heads(last=True), "dsn", example=tokens(7)).left
    assert place.reason.startswith(
        "the 8 features of Linear 'linear' lie on axes 3 and 4 of its input [4, 2, 7, 2, 4]; swap again with axis=2"
    )
    net = Heads(last=True)
    assert swap(net, "dsn", example=tokens(7), axis=3).swapped[0].channels == 2
    learns(net, tokens(9))


def test_an_axis_that_is_clearly_wrong() -> None:
    net = nn.Sequential(layer.Conv2d(1, 6, 3, padding=1), lif())
    functional.set_step_mode(net, "m")
    (place,) = swap(net, "dsn", example=9 * torch.rand(4, 2, 1, 5, 7), axis=-1).left
    where = "the 6 features of Conv2d '0' are axis 2 of its input [4, 2, 6, 5, 7], not -1"
    assert place.reason == f"{where}; swap it in a call without axis="


class Steps(nn.Module):
    """Calls its layers once per step [B, L, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.node = nn.Linear(8, 6), neuron.LIFNode()
        nn.init.constant_(self.linear.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.node(self.linear(x_t)) for x_t in x])


def test_single_steps() -> None:
    net, other = Steps(), nn.Sequential(nn.Linear(8, 6), lif())
    assert swap(net, "dsn", example=tokens(7)).swapped[0].axis == -1
    swap(other, "dsn", example=tokens(7))
    other.load_state_dict(dict(zip(other.state_dict(), net.state_dict().values(), strict=True)))
    x = tokens(9)
    assert torch.equal(net(x), other(x))
    alone = nn.Sequential(net.linear, neuron.LIFNode())
    (place,) = swap(alone, "dsn", example=tokens(7)[0]).left
    assert place.reason.endswith('set it to "m", or write axis=-1 if the input is a single step [B, L, D]')
    assert swap(alone, {"type": "dsn", "axis": -1}, example=9 * tokens(7)[0]).swapped[0].channels == 6


def test_axes_that_there_are_not() -> None:
    net = nn.Sequential(nn.Linear(8, 6), lif())
    (place,) = swap(net, "dsn", example=tokens(7), axis=4).left
    assert place.reason == "its input [4, 2, 7, 6] has no axis 4 after time and batch"
    (place,) = swap(net, "dsn", example=[tokens(7), tokens(5)], axis=2).left
    assert place.reason == "it was fed 5 and 7 channels on axis 2"
    with pytest.raises(UserError, match=r"axis=1; expected 2 or more, or -1"):
        swap(net, "dsn", example=tokens(7), axis=1)
    with pytest.raises(UserError, match=r"example=\[\]; expected an input of the network, or a list"):
        swap(net, "dsn", example=[])


def test_the_command_takes_an_axis(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from spikingjelly.activation_based import neuron\nfrom torch import nn\n\n\ndef net():\n"
    text += '    return nn.Sequential(neuron.LIFNode(step_mode="m"))\n'
    (tmp_path / "a_network_of_tokens.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["swap", "a_network_of_tokens:net", "--to", "dsn", "--example", "4,2,7,5", "--axis", "-1"]) == 0
    assert "0: LIFNode -> DSN, 5 channels on axis -1" in capsys.readouterr().out
