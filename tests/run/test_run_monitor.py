from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny_model import TinyConfig, TinyForCausalLM, TinyNeuron
from torch import Tensor, nn

from sj_lang.monitor import Monitor, neuron_parameters, nodes, seeded, undisturbed
from sj_lang.spikingjelly.nodes import LIF
from sj_lang.testing.properties import longest_run


class Given(nn.Module):
    """A node that fires what it is told to."""

    def __init__(self, levels: int = 1) -> None:
        super().__init__()
        self.levels = levels

    def init_state(self, x: Tensor) -> dict[str, Tensor]:
        return {}

    def functional(self, x: Tensor, state: object = None, mask: Tensor | None = None) -> tuple[Tensor, object]:
        return (x if mask is None else x * mask[..., None]), state


def test_nodes_are_found_by_what_they_can_do() -> None:
    model = TinyForCausalLM(TinyConfig())
    assert list(nodes(model)) == ["layers.0.neuron", "layers.1.neuron"]
    assert neuron_parameters(model) == 2 * 16
    assert not nodes(TinyForCausalLM(TinyConfig(twin=True)))


def test_rates_count_valid_steps_and_levels() -> None:
    model = nn.ModuleDict({"one": Given(), "four": Given(levels=4)})
    monitor = Monitor(model)
    x = torch.zeros(3, 2, 5)  # [T, B, C]
    x[0, 0, 0] = 1
    mask = torch.tensor([[1, 1], [1, 0], [1, 0]], dtype=torch.bool)
    big = torch.full((3, 2, 5), 2.0)
    with monitor.recording():
        model["one"].functional(x, None, mask)
        model["one"].functional(x, mask=mask)
        model["four"].functional(big)
    figures = monitor.figures()
    assert figures["firing_rate.one"] == pytest.approx(2 / (2 * 4 * 5))
    assert figures["firing_rate.four"] == pytest.approx(0.5)
    assert figures["firing_rate.mean"] == pytest.approx((2 / 40 * 40 + 0.5 * 30) / 70)
    assert figures["dead.one"] == pytest.approx(4 / 5)
    assert figures["dead.mean"] == pytest.approx(4 / 10)


def test_a_network_that_calls_its_nodes_as_modules_is_watched() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), LIF(channels=16, decay_input=False))
    x, monitor = torch.randn(50, 2, 8), Monitor(net)
    with monitor.recording(keep=True):
        spikes = net(x)
    assert monitor.figures()["firing_rate.1"] == pytest.approx(spikes.mean().item())
    assert torch.equal(monitor.rasters["1"][0], spikes)
    net[1].reset()
    net[1].step_mode = "s"
    single = Monitor(net)
    with single.recording():
        for x_t in x:
            net(x_t)
    assert single.figures()["firing_rate.1"] == pytest.approx(spikes.mean().item())
    assert "called" not in vars(net[1])


def test_spikes_count_whatever_their_sign() -> None:
    model = nn.ModuleDict({"signed": Given(levels=2)})
    monitor = Monitor(model)
    with monitor.recording():
        model["signed"].functional(torch.tensor([-2.0, 2.0, 0.0, -1.0]).view(1, 2, 2))  # [T, B, C]
    figures = monitor.figures()
    assert figures["firing_rate.signed"] == pytest.approx((2 + 2 + 0 + 1) / (2 * 4))
    assert figures["dead.signed"] == 0


def test_the_node_is_put_back_also_after_an_error() -> None:
    node = TinyNeuron(channels=2)
    with pytest.raises(IndexError), Monitor(nn.Sequential(node)).recording():
        node.functional(torch.zeros(0))
    assert "functional" not in vars(node)


def test_watching_changes_nothing() -> None:
    torch.manual_seed(0)
    model = TinyForCausalLM(TinyConfig(dropout=0.0))
    ids = torch.randint(0, 10, (2, 7))
    plain = model(ids, labels=ids).loss
    plain.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with Monitor(model).recording(keep=True):
        watched = model(ids, labels=ids).loss
        watched.backward()
    assert torch.equal(watched, plain)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))


def test_raster_puts_repeat_coding_token_by_token() -> None:
    model = nn.ModuleDict({"node": Given()})
    monitor = Monitor(model)
    # [T, L, C]: one sample, folded
    spikes = torch.arange(4 * 3 * 2, dtype=torch.float32).reshape(4, 3, 2)
    with monitor.recording(keep=True):
        model["node"].functional(spikes)
    raster = monitor.raster()["node"]
    assert raster.shape == (12, 2)
    assert torch.equal(raster[4 * 1 + 2], spikes[2, 1])  # token 1, t = 2
    monitor.reset()
    with monitor.recording(keep=True):
        model["node"].functional(spikes[:, :1])
    assert torch.equal(monitor.raster()["node"], spikes[:, 0])


def test_seeded_repeats_itself_and_disturbs_nobody() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with seeded(5):
        inside = draw()
    after = draw()
    with seeded(5):
        assert draw() == inside
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert draw() == after


def test_undisturbed_restores_each_module() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model.train()
    model[1].eval()
    with undisturbed(model):
        assert not model[0].training
        assert not torch.is_grad_enabled()
    assert [module.training for module in model] == [True, False]


def test_longest_runs_and_saturated_channels_leave_padding_out() -> None:
    model = nn.ModuleDict({"node": Given()})
    monitor = Monitor(model)
    spikes = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.float32).unsqueeze(1)
    with monitor.recording():
        model["node"].functional(spikes)  # [T, B, C]
    figures = monitor.figures()
    assert (figures["longest_run.node"], figures["longest_run.max"]) == (3, 3)
    assert (figures["saturated.node"], figures["dead.node"]) == (0, 0)
    mask = torch.tensor([1, 0, 0, 1, 1], dtype=torch.bool).unsqueeze(1)
    monitor.reset()
    with monitor.recording():
        model["node"].functional(spikes, None, mask)
    figures = monitor.figures()
    assert figures["longest_run.node"] == 3  # steps 0, 3 and 4 of the first two channels
    assert figures["saturated.node"] == figures["saturated.mean"] == pytest.approx(2 / 3)


def test_no_run_in_nothing_but_padding() -> None:
    model = nn.ModuleDict({"node": Given()})
    monitor = Monitor(model)
    with monitor.recording():
        model["node"].functional(torch.ones(3, 1, 2), None, torch.zeros(3, 1, dtype=torch.bool))
    figures = monitor.figures()
    assert (figures["longest_run.node"], figures["saturated.node"], figures["firing_rate.node"]) == (0, 0, 0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.0])
def test_longest_runs_of_random_spikes(rate: float) -> None:
    for steps in (1, 2, 7, 40):
        spikes = (torch.rand(steps, 3, 5) < rate).float()
        monitor = Monitor(nn.ModuleDict({"node": Given()}))
        with monitor.recording():
            monitor.nodes["node"].functional(spikes)
        assert monitor.figures()["longest_run.node"] == longest_run(spikes)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts_equal_those_of_the_plain_definitions(masked: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    spikes = torch.randint(-1, 3, (40, 3, 5), generator=generator).to(dtype)  # [T, B, C]
    spikes[:, :, 0], spikes[:, :, 1] = 0, 2
    mask = torch.rand(40, 3, generator=generator) < 0.7 if masked else torch.ones(40, 3, dtype=torch.bool)
    spikes *= mask[..., None]
    node = Given(levels=2)
    monitor = Monitor(nn.ModuleDict({"node": node}))
    with monitor.recording():
        node.functional(spikes, None, mask if masked else None)
    layer = monitor.layers["node"]
    assert int(layer.spikes) == int(spikes.double().abs().sum())
    assert layer.fired.tolist() == (spikes != 0).any(1).any(0).tolist()
    assert layer.silent.tolist() == ((spikes == 0) & mask[..., None]).any(1).any(0).tolist()
    alone = [longest_run(spikes[mask[:, b], b : b + 1]) for b in range(3)]
    assert int(layer.longest) == max(alone)
