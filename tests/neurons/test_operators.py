"""Operators go past torch's dispatcher where it has nothing to add, and only there;
both ways give the same.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sj_lang.operators import Operator, operator


@operator("sj_lang_toy::product")
def product(x: Tensor, w: Tensor, scale: float) -> Tensor:
    return x.contiguous() * w * scale


@operator("sj_lang_toy::product_backward")
def product_backward(grad: Tensor, x: Tensor, w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return grad * w * scale, grad * x * scale


@product.register_fake
def _(x: Tensor, w: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@product_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w)


def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, w, ctx.scale = inputs
    ctx.save_for_backward(x, w)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *product_backward(grad, *ctx.saved_tensors, ctx.scale), None


product.register_autograd(differentiate, setup_context=keep)


@operator("sj_lang_toy::halves")
def halves(x: Tensor, doubled: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """A half, a double that may be missing, and what only the backward pass reads."""
    return x / 2, x * 2 if doubled else None, torch.full_like(x, 0.5)


@operator("sj_lang_toy::halves_backward")
def halves_backward(grad: Tensor, half: Tensor) -> Tensor:
    return grad * half


halves.register_autograd(
    lambda ctx, grad, *_: (halves_backward.within(ctx, [grad], ctx.saved_tensors)(grad, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output[-1]),
    inner=1,
)


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that are called through the dispatcher."""
    names: list[str] = []

    def spied(one: Operator) -> Callable[..., Any]:
        through = one._operator
        return lambda *inputs: (names.append(one._name.split("::")[1]), through(*inputs))[1]

    for one in (product, product_backward, halves, halves_backward):
        monkeypatch.setattr(one, "_operator", spied(one))
    return names


def inputs() -> tuple[Tensor, Tensor]:
    return torch.arange(1.0, 4.0, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Function(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_eager_calls_go_past_the_dispatcher(dispatched: list[str]) -> None:
    x, w = inputs()
    y = product(x, w, 0.5)
    assert torch.equal(y, x)
    assert [g.tolist() for g in torch.autograd.grad(y.sum(), (x, w))] == [[1, 1, 1], [0.5, 1, 1.5]]
    assert torch.autograd.grad(product(x, w.detach(), 0.5).sum(), x)[0].tolist() == [1, 1, 1]
    for still in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with still:
            assert torch.equal(product(x.detach(), torch.nn.Parameter(w.detach()), 0.5), x)
    with torch.no_grad():
        assert not product(x, w, 0.5).requires_grad
    assert dispatched == []


def test_a_mode_sees_the_operators(dispatched: list[str]) -> None:
    x, w = inputs()
    with Dispatch():
        torch.autograd.grad(product(x, w, 0.5).sum(), (x, w))
    assert dispatched == ["product", "product_backward"]
    y = product(x, w, 0.5)
    with Dispatch():
        torch.autograd.grad(y.sum(), (x, w))
    assert dispatched == ["product", "product_backward", "product_backward"]
    with Function():
        product(x, w, 0.5)
    assert dispatched[3:] == ["product"]


def in_fake_tensors() -> Tensor:
    with FakeTensorMode():
        return product(torch.ones(3), torch.ones(3), 0.5)


class Own(Tensor):
    """A subclass."""


TRACED: dict[str, Callable[[], Any]] = {
    "fake tensors": in_fake_tensors,
    "meta": lambda: product(torch.ones(3, device="meta"), torch.ones(3, device="meta"), 0.5),
    "a subclass": lambda: product(torch.ones(3).as_subclass(Own), torch.ones(3), 0.5),  # type: ignore[arg-type]
    "vmap": lambda: torch.func.vmap(lambda x: product(x, torch.ones(3), 0.5))(torch.ones(2, 3)),
    "jit": lambda: torch.jit.trace(lambda x: product(x, x, 0.5), torch.ones(3)),
    "functionalize": lambda: torch.func.functionalize(lambda x: product(x, x, 0.5))(torch.ones(3)),
    "a lazy negation": lambda: product(torch.ones(3, dtype=torch.complex64).conj().imag, torch.ones(3), 0.5),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("call", TRACED.values(), ids=TRACED)
def test_traces_transforms_and_other_tensors_are_dispatched(call: Callable[[], Any], dispatched: list[str]) -> None:
    call()
    assert set(dispatched) == {"product"}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_in_batches(dispatched: list[str]) -> None:
    x, w = inputs()
    (got,) = torch.autograd.grad(product(x, w, 0.5), x, torch.eye(3), is_grads_batched=True)
    assert torch.equal(got, torch.eye(3))
    assert dispatched == ["product_backward"]


def test_inner_and_missing_results(dispatched: list[str]) -> None:
    x, _ = inputs()
    half, nothing = halves(x, False)
    assert nothing is None
    assert torch.autograd.grad(half.sum(), x)[0].tolist() == [0.5] * 3
    assert [len(halves(x, True)), len(halves(x, True, whole=True)), len(halves(x.detach(), True))] == [2, 3, 3]
    assert dispatched == []
    with Dispatch():
        half, nothing, _ = halves(x, False)
    assert nothing.shape == (0,)
    assert torch.autograd.grad(half.sum(), x)[0].tolist() == [0.5] * 3
    for transformed in (torch.func.grad, lambda loss: torch.vmap(torch.func.grad(loss))):
        gradient = transformed(lambda x: halves(x, False)[0].sum())(x.detach()[None])
        assert gradient.tolist() == [[0.5] * 3]


def test_a_backward_pass_looks_at_what_is_new(dispatched: list[str]) -> None:
    """Modes, gradients of other kinds, and tensors that became others while they were kept."""
    x, _ = inputs()
    half = halves(x, False)[0]
    torch.autograd.grad(half, x, torch.ones(3), retain_graph=True)
    assert dispatched == []
    torch.autograd.grad(half, x, torch.ones(3).as_subclass(Own), retain_graph=True)  # type: ignore[arg-type]
    torch.autograd.grad(half, x, torch.ones(3, dtype=torch.complex64).conj().imag, retain_graph=True)
    torch.autograd.grad(half, x, torch.ones(3, requires_grad=True), create_graph=True)
    with Dispatch():
        torch.autograd.grad(half, x, torch.ones(3))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x.as_subclass(Own)):
        torch.autograd.grad(halves(x, False)[0].sum(), x)
    assert dispatched == ["halves_backward"] * 5


def test_numbers_come_after_tensors() -> None:
    def body(x: Tensor, scale: float, w: Tensor) -> Tensor:
        return x * scale * w

    with pytest.raises(TypeError, match="tensors come before its numbers, got Tensor, float, Tensor"):
        Operator("sj_lang_toy::mixed", body)


def test_a_second_derivative_is_refused(dispatched: list[str]) -> None:
    x, w = inputs()
    (first,) = torch.autograd.grad(product(x, w, 0.5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"backward through sj_lang_toy\.product_backward"):
        first.sum().backward()
    assert dispatched == ["product_backward"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, in make_dual
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_forward_mode_is_refused(grad: bool) -> None:
    """It would be 0, silently."""
    x = torch.ones(3)
    w = x.clone().requires_grad_(grad)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="sj_lang_toy::product has no forward-mode"):
        product(forward_ad.make_dual(x, x), w, 0.5)
    with pytest.raises(NotImplementedError, match="use reverse mode"):
        torch.func.jvp(lambda x: product(x, x, 0.5), (x,), (x,))
    with forward_ad.dual_level():
        assert torch.equal(product(x, x, 0.5), x / 2)


def test_an_input_changed_in_place_is_noticed() -> None:
    x, w = inputs()
    w = w.detach()
    y = product(x, w, 0.5)
    w.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_compiled_graphs_hold_the_operator() -> None:
    seen: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    compiled: Any = torch.compile(lambda x, w: product(x, w, 0.5), fullgraph=True, backend=backend)
    x, w = inputs()
    assert torch.equal(compiled(x, w), x)
    assert [str(target) for target in seen] == ["sj_lang_toy.product.default"]


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_operators_are_sound() -> None:
    torch.library.opcheck(torch.ops.sj_lang_toy.product.default, (*inputs(), 0.5))


@pytest.mark.parametrize("make", [DSN, BPSN])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_neurons_are_the_same_both_ways(make: Any, backend: str) -> None:
    torch.manual_seed(0)
    node, x = make(channels=3, backend=backend).double(), torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True)

    def results() -> list[Tensor]:
        spikes = node.functional(x)[0]
        weight = torch.linspace(-1, 1, spikes.numel(), dtype=x.dtype).view(spikes.shape)
        return [spikes, *torch.autograd.grad((spikes * weight).sum(), [x, *node.parameters()])]

    ours = results()
    with Dispatch():
        for a, b in zip(ours, results(), strict=True):
            assert torch.equal(a, b)


# vmap of an operator runs row after row
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("make", [DSN, BPSN])
def test_transforms_of_torch(make: Any, backend: str) -> None:
    """Gradients, for each sequence alone too, Jacobians, parameters as arguments;
    a second derivative is refused.
    """
    node, x = make(channels=3, backend=backend), torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return node.functional(x)[0].square().sum()

    def alone(x: Tensor) -> Tensor:
        return loss(x[:, None])

    want, *wanted = torch.autograd.grad(loss(leaf), [leaf, *node.parameters()])
    torch.testing.assert_close(torch.func.grad(loss)(x), want)
    torch.testing.assert_close(torch.vmap(torch.func.grad(alone), in_dims=1, out_dims=1)(x), want)
    torch.testing.assert_close(torch.func.jacrev(loss)(x), want)
    given = {name: value.detach() for name, value in node.named_parameters()}
    found = torch.func.grad(lambda given: torch.func.functional_call(node, given, (x,)).square().sum())(given)
    torch.testing.assert_close([*found.values()], wanted)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(x)
