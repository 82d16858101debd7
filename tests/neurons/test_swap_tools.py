"""SpikingJelly's own tools on our nodes: monitors, `v_seq`, and the counters of its 2.x line."""

from typing import Any

import pytest
import torch
from torch import nn

from sj_lang.compat import spikingjelly
from sj_lang.hf import shield
from sj_lang.neuron import Node
from sj_lang.swap import swap

pytest.importorskip("sj_lang_neurons")
shield()
layer, monitor, neuron = map(spikingjelly, ("layer", "monitor", "neuron"))


def swapped(new: str) -> tuple[nn.Module, torch.Tensor]:
    lif = [neuron.LIFNode(step_mode="m", store_v_seq=True) for _ in range(2)]
    net = nn.Sequential(nn.Linear(6, 8), lif[0], nn.Linear(8, 3), lif[1])
    x = 4 * torch.rand(4, 2, 6, generator=torch.Generator().manual_seed(0))
    assert len(swap(net, new, example=x).swapped) == 2
    return net, x


@pytest.mark.parametrize("new", ["dsn", "bpsn"])
def test_monitors_by_the_class_of_the_new_nodes(new: str) -> None:
    net, x = swapped(new)
    outputs = monitor.OutputMonitor(net, Node)
    potentials = monitor.AttributeMonitor("v_seq", pre_forward=False, net=net, instance=Node)
    old = monitor.OutputMonitor(net, neuron.BaseNode)
    spikes = net(x)
    assert [record.shape for record in outputs.records] == [(4, 2, 8), (4, 2, 3)]
    assert torch.equal(outputs["3"][0], spikes)
    assert [record.shape for record in potentials.records] == [(4, 2, 8), (4, 2, 3)]
    assert not old.records


@pytest.mark.parametrize("new", ["dsn", "bpsn"])
def test_counters_see_the_products_and_the_nodes_by_a_rule(new: str) -> None:
    counters: Any = pytest.importorskip("spikingjelly.activation_based.op_counter", reason="SpikingJelly 2 has it")
    net, x = swapped(new)

    class NodeCounter(counters.ModuleCounter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rules = {("forward", Node): lambda node, args, kwargs, out: out.numel() * node.operations()[0]}

    products, nodes = counters.ACCounter(), NodeCounter()
    with torch.no_grad(), counters.DispatchCounterMode([products]), counters.ModuleCounterMode([nodes], model=net):
        net(x)
    spikes = monitor.OutputMonitor(net, Node)
    net[1].reset(), net[3].reset()
    with torch.no_grad():
        net(x)
    assert products.get_total() >= 3 * int(spikes["1"][0].sum())
    assert nodes.get_total() == 4 * 2 * (8 * net[1].operations()[0] + 3 * net[3].operations()[0])
