"""Training with nodes that were swapped in: inputs changed in place,
and forwards that a backward pass runs again.
"""

import copy
import warnings

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


@pytest.mark.parametrize("variant", ["R", "G"])
def test_the_gradient_through_silent_nodes_is_finite(variant: str) -> None:
    """Variant R is silent on a repeated image; each node scales the gradient by no more than its
    gains and the surrogate's slope do."""
    node = neuron.LIFNode(step_mode="m")
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), node if i == 0 else copy.deepcopy(node)) for i in range(20)))
    x = torch.rand(1, 2, 8).repeat(4, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = swap(net, "bpsn", example=x, variant=variant)
    assert sum(place.rate_after == 0 for place in report.swapped) >= 15
    net(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.abs().max() < 1e3 for p in net.parameters())
