"""Swapping neurons in networks that exist: what is kept, what is found, what is left and why."""

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sj_lang import plugins
from sj_lang.compat import spikingjelly
from sj_lang.errors import UserError
from sj_lang.hf import shield
from sj_lang.swap import SwapReport, swap

pytest.importorskip("sj_lang_neurons")
shield()
functional, layer, neuron, surrogate = map(spikingjelly, ("functional", "layer", "neuron", "surrogate"))


def csnn(step_mode: str = "m") -> nn.Sequential:
    """The convolutional net of SpikingJelly's tutorials, small."""
    net = nn.Sequential(
        layer.Conv2d(1, 6, kernel_size=3, padding=1, bias=False),
        layer.BatchNorm2d(6),
        neuron.IFNode(surrogate_function=surrogate.ATan()),
        layer.MaxPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(6 * 4 * 4, 10, bias=False),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
    )
    functional.set_step_mode(net, step_mode)
    return net


X = 8 * torch.rand(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def train_save_load(net: nn.Module, x: torch.Tensor, again: nn.Module) -> None:
    """A step of training that moves every parameter of the new nodes, reset, save, load."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    functional.reset_net(net)
    net(x).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    functional.reset_net(net)
    net.eval()
    first = net(x)
    functional.reset_net(net)
    assert torch.equal(net(x), first), "reset_net left a state behind"
    again.load_state_dict(net.state_dict())
    functional.reset_net(again)
    assert torch.equal(again.eval()(x), first)


def test_multi_step() -> None:
    net = csnn()
    report = swap(net, "dsn", example=X)
    assert [(p.name, p.was, p.now, p.channels) for p in report.swapped] == [
        ("2", "IFNode", "DSN", 6),
        ("6", "LIFNode", "DSN", 10),
    ]
    assert not report.left
    assert "swapped 2 of 2" in str(report)
    assert "2: IFNode -> DSN, 6 channels" in str(report)
    train_save_load(net, X, copy.deepcopy(net))
    functional.reset_net(net)
    functional.set_step_mode(net, "s")
    assert [m.step_mode for m in net.modules() if hasattr(m, "step_mode")] == ["s"] * 7


def test_single_step_equals_multi_step() -> None:
    net = csnn("s")
    swap(net, "dsn", example=X[0])
    net.eval()
    steps = torch.stack([net(x) for x in X])
    functional.reset_net(net)
    functional.set_step_mode(net, "m")
    assert torch.equal(net(X), steps)


def test_the_example_leaves_no_trace() -> None:
    net = csnn().train()
    before = copy.deepcopy(net.state_dict())
    swap(net, "dsn", example=X, of=neuron.LIFNode)
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert net.training
    assert net[1].training
    assert type(net[2]) is neuron.IFNode
    assert net[2].v == 0.0, "the old node kept a state"


def test_surrogate_and_threshold_are_kept_where_they_mean_the_same() -> None:
    net = nn.Sequential(neuron.LIFNode(v_threshold=0.5, surrogate_function=surrogate.ATan(alpha=3.0), step_mode="m"))
    report = swap(net, "dsn", example=torch.randn(4, 2, 5), n=1)
    assert isinstance(net[0].surrogate_function, surrogate.ATan)
    assert net[0].surrogate_function.alpha == 3.0
    assert net[0].v_threshold == 0.5
    assert not report.places[0].note

    net = nn.Sequential(neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m"))
    report = swap(net, "dsn", example=torch.randn(4, 2, 5), n=4)
    assert net[0].levels == 4
    assert report.places[0].note == "ATan not kept: it fires integers"


def test_options_win_over_what_is_carried() -> None:
    net = nn.Sequential(neuron.LIFNode(v_threshold=0.5, step_mode="m"))
    swap(net, "dsn", example=torch.randn(4, 2, 5), n=1, surrogate_function="Sigmoid", v_threshold=0.25)
    assert isinstance(net[0].surrogate_function, surrogate.Sigmoid)
    assert net[0].v_threshold == 0.25


def test_dtype_and_store_v_seq_are_kept() -> None:
    net = nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="m", store_v_seq=True)).double().eval()
    swap(net, "dsn", example=torch.randn(4, 2, 5).double())
    assert {p.dtype for p in net[1].parameters()} == {torch.float64}
    assert not net[1].training
    net(torch.randn(4, 2, 5).double())
    assert net[1].v_seq.shape == (4, 2, 6)


def test_a_shared_node_stays_shared() -> None:
    shared = neuron.LIFNode(step_mode="m")
    net = nn.Sequential(nn.Linear(5, 5), shared, nn.Linear(5, 5), shared)
    report = swap(net, "dsn", example=torch.randn(4, 2, 5))
    assert net[1] is net[3]
    assert [p.name for p in report.swapped] == ["1", "3"]


def test_places_that_cannot_be_swapped_stay_and_say_why() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = layer.LinearRecurrentContainer(
                neuron.LIFNode(step_mode="s"), in_features=5, out_features=5, step_mode="m"
            )
            self.idle = neuron.LIFNode(step_mode="m")
            self.flat = neuron.LIFNode(step_mode="m")
            self.twice = neuron.IFNode(step_mode="m")
            self.good = neuron.LIFNode(step_mode="m")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.recurrent(x)
            self.flat(y[..., 0])
            self.twice(y)
            self.twice.reset()
            self.twice(y[..., :2])
            return self.good(y)

    net = Net()
    kept = {name: module for name, module in net.named_modules() if isinstance(module, neuron.BaseNode)}
    report = swap(net, "dsn", example=torch.randn(4, 2, 5))
    reasons = {place.name: place.reason for place in report.left}
    assert reasons == {
        "recurrent.sub_module": "in the recurrent LinearRecurrentContainer 'recurrent' its output is fed back to it",
        "idle": "the example did not reach it",
        "flat": "its input [4, 2] has no channel axis ([T, B, C, ...])",
        "twice": "it was fed 2 and 5 channels",
    }
    assert [place.name for place in report.swapped] == ["good"]
    for name in reasons:
        assert net.get_submodule(name) is kept[name]
    assert "idle: LIFNode left: the example did not reach it" in str(report)


def test_a_node_without_steps_needs_whole_sequences() -> None:
    reason = plugins.get("neuron", "psn").missing
    if reason:
        pytest.skip(reason)
    net = csnn("s")
    report = swap(net, "psn", example=X[0], T=3)
    assert not report.swapped
    assert {place.reason for place in report.left} == {"it runs step by step, and psn has no single-step mode"}
    net = csnn("m")
    assert len(swap(net, "psn", example=X, T=3).swapped) == 2
    train_save_load(net, X, copy.deepcopy(net))


@pytest.mark.parametrize("options", [{}, {"variant": "K", "kappa": 0.5}, {"direction": "forward"}])
def test_bidirectional(options: dict[str, Any]) -> None:
    net = csnn()
    report = swap(net, "bpsn", example=X, **options)
    assert [(p.name, p.now, p.channels, p.note) for p in report.swapped] == [
        ("2", "BPSN", 6, ""),
        ("6", "BPSN", 10, ""),
    ]
    assert net[2].direction == options.get("direction", "both")
    assert isinstance(net[2].surrogate_function, surrogate.ATan)
    train_save_load(net, X, copy.deepcopy(net))


def test_only_the_forward_direction_goes_where_steps_are() -> None:
    net = csnn("s")
    report = swap(net, "bpsn", example=X[0])
    assert {place.reason for place in report.left} == {"it runs step by step, and bpsn has no single-step mode"}
    assert type(net[2]) is neuron.IFNode
    assert len(swap(net, "bpsn", example=X[0], direction="forward").swapped) == 2
    net.eval()
    steps = torch.stack([net(x) for x in X])
    functional.reset_net(net)
    functional.set_step_mode(net, "m")
    assert torch.equal(net(X), steps)

    net = csnn()
    swap(net, "bpsn", example=X)
    expected = net(X)
    functional.reset_net(net)
    functional.set_step_mode(net, "s")
    assert {module.step_mode for module in net.modules() if hasattr(module, "step_mode")} == {"s"}
    with pytest.raises(ValueError, match=r'step_mode "s" is not possible.*needs the whole sequence.*"forward" steps'):
        net(X[0])
    functional.reset_net(net)
    functional.set_step_mode(net, "m")
    assert torch.equal(net(X), expected)


def test_a_threshold_that_the_new_node_cannot_have() -> None:
    net = nn.Sequential(neuron.LIFNode(v_threshold=0.3, step_mode="m"), neuron.LIFNode(v_threshold=-0.5, step_mode="m"))
    report = swap(net, "bpsn", example=torch.randn(4, 2, 5))
    assert [place.name for place in report.swapped] == ["0"]
    torch.testing.assert_close(nn.functional.softplus(net[0].threshold), torch.full((5,), 0.3))
    assert "v_threshold is -0.5, it must be above 0" in report.left[0].reason
    assert type(net[1]) is neuron.LIFNode


def test_choosing_places_by_name() -> None:
    net = csnn()
    report = swap(net, "dsn", example=X, like="^6$")
    assert [place.name for place in report.places] == ["6"]
    with pytest.raises(UserError, match="like='nothing' matches none of: 2"):
        swap(net, "dsn", example=X, like="nothing")


def test_bad_input() -> None:
    with pytest.raises(UserError, match="has no neuron of"):
        swap(nn.Sequential(nn.Linear(2, 2)), "dsn", example=torch.randn(2, 2))
    with pytest.raises(UserError, match="the network itself is a LIFNode"):
        swap(neuron.LIFNode(), "dsn", example=torch.randn(2, 2))
    with pytest.raises(UserError, match="dsn"):
        swap(csnn(), "dns", example=X)
    with pytest.raises(UserError, match="alpha_init"):
        swap(csnn(), "dsn", example=X, alfa_init=0.5)
    net = csnn()
    with pytest.raises(UserError):
        swap(net, "dsn", example=X, nn=1)
    with pytest.raises(UserError, match=r"swap: place '2': DSN: tau is 0\.0, it must be above 0"):
        swap(net, "dsn", example=X, tau=0)
    with pytest.raises(UserError, match="direction: expected 'both' or 'forward' or 'backward', found 'sideways'"):
        swap(net, "bpsn", example=X, direction="sideways")
    assert type(net[2]) is neuron.IFNode, "a refused call changed the network"


def test_an_of_or_like_that_is_none_is_told_in_one_sentence() -> None:
    for wrong in ("LIFNode", ["LIFNode"], 3, ()):
        with pytest.raises(UserError, match=r"swap: of=.*expected a class, such as neuron\.LIFNode"):
            swap(csnn(), "dsn", example=X, of=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"swap: like='\(' is not a valid regular expression: .*position 0"):
        swap(csnn(), "dsn", example=X, like="(")
    assert len(swap(csnn(), "dsn", example=X, of=(module for module in (neuron.IFNode,))).swapped) == 1


class Calls(nn.Module):
    """A node that is called in a way of one's own."""

    def __init__(self, call: Callable[[nn.Module, torch.Tensor], torch.Tensor], step_mode: str = "m") -> None:
        super().__init__()
        self.call, self.node = call, neuron.LIFNode(step_mode=step_mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.node, x)


def test_a_node_that_gets_its_input_by_name() -> None:
    net = Calls(lambda node, x: node(x_seq=x))
    (place,) = swap(net, "dsn", example=torch.rand(3, 2, 5)).left
    assert place.reason == "the net hands it its input by name, x_seq=, which DSN does not take"
    net = Calls(lambda node, x: node(x=x), step_mode="s")
    assert len(swap(net, "dsn", example=torch.rand(2, 5)).swapped) == 1
    assert net(torch.rand(2, 5)).shape == (2, 5)


@pytest.mark.parametrize("method", ["multi_step_forward", "single_step_forward"])
def test_a_node_of_which_a_method_is_called(method: str) -> None:
    net = Calls(lambda node, x: getattr(node, method)(x))
    old = net.node
    (place,) = swap(net, "dsn", example=torch.rand(3, 2, 5)).left
    assert place.reason == f"the net calls its {method} or forward, and not the node itself"
    assert net.node is old
    assert method not in vars(old)
    assert not old._forward_hooks
    assert not old._forward_pre_hooks


def test_hooks_stay_with_the_place_and_can_be_removed() -> None:
    net = csnn()
    seen: list[Any] = []
    forward = net[2].register_forward_hook(lambda module, args, output: seen.append((module, output.shape)))
    net[2].register_full_backward_hook(lambda module, ingoing, outgoing: seen.append("backward"))
    net[6].register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    swap(net, "dsn", example=X)
    seen.clear()
    net(X).sum().backward()
    assert seen == [(net[2], (3, 2, 6, 8, 8)), {}, "backward"]
    forward.remove()
    functional.reset_net(net)
    seen.clear()
    net(X)
    assert seen == [{}]


def published(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network of SpikingJelly's own zoo, in multi-step mode, and an input."""
    # Its zoo imports torchvision and h5py, which not every environment has in a state that loads.
    pytest.importorskip("torchvision", reason="SpikingJelly's models import torchvision", exc_type=ImportError)
    pytest.importorskip("h5py", reason="SpikingJelly's models import h5py")
    options = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan()}
    if name == "spikformer":
        module = pytest.importorskip("spikingjelly.activation_based.model.spikformer", reason="in SpikingJelly 2 only")
        net = module.spikformer_ti(T=2, img_size_h=32, img_size_w=32, num_classes=10)
        return net, torch.rand(2, 2, 3, 32, 32)
    family = "sew_resnet" if name.startswith("sew") else name.rstrip("0123456789")
    module = importlib.import_module(f"spikingjelly.activation_based.model.{family}")
    more = {"cnf": "ADD"} if family == "sew_resnet" else {}
    net = getattr(module, name)(num_classes=10, **more, **options)
    functional.set_step_mode(net, "m")
    return net, torch.rand(2, 2, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("new", ["dsn", "bpsn"])
@pytest.mark.parametrize("name", ["spiking_resnet18", "sew_resnet18", "spiking_vgg11", "spikformer"])
def test_networks_of_spikingjelly(name: str, new: str) -> None:
    net, x = published(name)
    old = sum(isinstance(m, neuron.BaseNode) for m in net.modules())
    report = swap(net, new, example=x)
    print(report)
    assert isinstance(report, SwapReport)
    assert len(report.swapped) == old
    assert not any(isinstance(m, neuron.BaseNode) for m in net.modules())
    train_save_load(net, x, copy.deepcopy(net))


def test_a_surrogate_of_ones_own() -> None:
    net = csnn()
    swap(net, "dsn", example=X, n=1, surrogate_function=surrogate.ATan(alpha=5.0))
    nodes = [module for module in net.modules() if type(module).__name__ == "DSN"]
    assert len(nodes) == 2
    assert {node.surrogate_function.alpha for node in nodes} == {5.0}
    assert len({id(node.surrogate_function) for node in nodes}) == len(nodes)
    with pytest.raises(UserError, match="surrogat"):
        swap(csnn(), "dsn", example=X, n=1, surrogat=surrogate.ATan())


def test_a_class_in_place_of_a_name() -> None:
    with pytest.raises(UserError, match=r"expected a registered name, such as 'dsn'"):
        swap(csnn(), neuron.LIFNode, example=X)
