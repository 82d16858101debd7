"""Training with nodes that were swapped in: inputs changed in place,
and forwards that a backward pass runs again.
"""

import pytest
import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.hf import shield
from sj_lang.swap import swap

pytest.importorskip("sj_lang_neurons")
shield()
functional, neuron = map(spikingjelly, ("functional", "neuron"))


class Residual(nn.Module):
    """`x += fc(node(x))`: the node's input is gone before the backward pass."""

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.first, self.node, self.fc = nn.Linear(5, 5), node, nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += self.fc(self.node(x))
        return x


@pytest.mark.parametrize("new", ["dsn", "bpsn"])
def test_an_input_that_is_changed_in_place(new: str) -> None:
    net = Residual(neuron.LIFNode(step_mode="m"))
    x = 9 * torch.rand(4, 2, 5)
    (place,) = swap(net, new, example=x).swapped
    assert "it keeps a copy for the backward pass" in place.note
    gradients = []
    for copies in (True, False):
        functional.reset_net(net)
        net.zero_grad()
        net.node.copies_input = copies
        loss = net(x).square().sum()
        if copies:
            loss.backward()
            gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        else:
            with pytest.raises(RuntimeError, match=r"input of a spiking neuron was changed in place.*copies_input"):
                loss.backward()
    functional.reset_net(net)
    net.zero_grad()
    y = net.first(x)
    (y + net.fc(net.node(y))).square().sum().backward()
    for gradient, p in zip(gradients, (p for p in net.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_a_node_that_a_backward_pass_runs_again() -> None:
    from torch.utils.checkpoint import checkpoint

    net = nn.Sequential(neuron.LIFNode(step_mode="m"))
    x = 9 * torch.rand(4, 2, 5)
    swap(net, "dsn", example=x)
    node = net[0]
    x.requires_grad_()
    node(x).sum().backward()
    expected = node.bias.grad.clone()
    functional.reset_net(net)
    node.zero_grad()
    with pytest.warns(UserWarning, match="DSN: a backward pass runs it again.*the gradients are wrong"):
        checkpoint(node, x, use_reentrant=False).sum().backward()

    functional.reset_net(net)
    node.zero_grad()
    checkpoint(lambda x: node.functional(x)[0], x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(node.bias.grad, expected)

    memopt = pytest.importorskip("spikingjelly.activation_based.memopt", reason="in SpikingJelly 2 only")
    for chunks in (1, 2):
        functional.reset_net(net)
        node.zero_grad()
        memopt.checkpoint_module(node, chunks=chunks)(x).sum().backward()
        torch.testing.assert_close(node.bias.grad, expected)
