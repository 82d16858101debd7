"""The base class, by a neuron that gives nothing but `step`: all else must come from the base."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sj_lang import compat, masks
from sj_lang.neuron import Kernel, Node, State

functional: Any = compat.spikingjelly("functional")
monitor: Any = compat.spikingjelly("monitor")
base: Any = compat.spikingjelly("base")


class Leaky(Node):
    """v = v / 2 + g x, a spike where v >= 1; counts its valid steps."""

    def __init__(self, *, channels: int, **options: Any) -> None:
        super().__init__(channels=channels, **options)
        self.g = nn.Parameter(torch.ones(channels))

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"v": tuple(shape), "count": (shape[0], 1)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        gain = self.g.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))
        v = state["v"] / 2 + gain * x
        return (v >= 1).to(v), {"v": v.clone(), "count": state["count"] + 1}, v


class WholeOnly(Leaky):
    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_steps_move_only_where_padding_is_not_on_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    node, x = Leaky(channels=4), random(6, 3, 4).requires_grad_()
    step, valid = torch.arange(6)[:, None], torch.tensor([6, 4, 0])
    moved: list[Tensor] = []
    orders = masks.orders

    def spy(mask: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        moved.append(mask)
        return orders(mask, axis)

    def run(mask: Tensor) -> list[Tensor]:
        spikes, state = node.functional(x, mask=mask)
        return [spikes, *state.values(), *torch.autograd.grad(state["v"].sum(), x)]

    monkeypatch.setattr(masks, "orders", spy)
    for mask, moves in ((step < 6 + valid, 0), (step < valid, 0), (step >= valid, 1), ((step + valid) % 3 > 0, 1)):
        quick = run(mask)
        assert len(moved) == moves
        # where nothing is looked at, every mask is put in order
        with monkeypatch.context() as compiling:
            compiling.setattr(torch.compiler, "is_compiling", lambda: True)
            slow = run(mask)
        assert len(moved) == moves + 1
        assert all(torch.equal(a, b) for a, b in zip(quick, slow, strict=True))
        moved.clear()


def test_sequence_equals_steps_and_both_carry_state() -> None:
    x = random(7, 3, 4)
    node, stepwise = Leaky(channels=4), Leaky(channels=4, step_mode="s")
    whole = node(x)
    assert torch.equal(torch.stack([stepwise(x_t) for x_t in x]), whole)
    assert torch.equal(node.v, stepwise.v)
    functional.reset_net(node)
    assert node.v is None
    assert torch.equal(torch.cat((node(x[:2]), node(x[2:]))), whole)
    assert (node.count == 7).all()


def test_functional_touches_nothing() -> None:
    node, x = Leaky(channels=4), random(7, 3, 4)
    given = {"v": random(3, 4, seed=1), "count": torch.zeros(3, 1)}
    before = copy.deepcopy(given)
    _, after = node.functional(x, given)
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert node.v is None
    assert after["v"].data_ptr() != given["v"].data_ptr()
    assert node.functional(x)[1].keys() == node.init_state(x).keys() == {"v", "count"}


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3)], ids=["TBC", "TBCHW"])
@pytest.mark.parametrize("filler", [torch.nan, torch.inf, 5.0])
def test_masked_steps_are_removed(shape: tuple[int, ...], filler: float) -> None:
    node = Leaky(channels=4)
    x = random(9, 3, *shape)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 0, 1, 0], [0] * 9]).bool().t()
    dirty = x.masked_fill(~mask.view(9, 3, *(1,) * len(shape)), filler).requires_grad_()
    start = {"v": random(3, *shape, seed=2), "count": torch.full((3, 1), 10.0)}
    spikes, state = node.functional(dirty, start, mask)
    (state["v"].sum()).backward()
    for b in range(3):
        valid = mask[:, b]
        assert (spikes[~valid, b] == 0).all()
        assert (dirty.grad[~valid, b] == 0).all()
        rows = {name: value[b : b + 1] for name, value in start.items()}
        if not valid.any():
            assert torch.equal(state["v"][b], start["v"][b])
            assert state["count"][b] == 10
            continue
        alone = x[valid, b : b + 1].detach().requires_grad_()
        s, after = node.functional(alone, rows)
        after["v"].sum().backward()
        assert torch.equal(spikes[valid, b], s[:, 0])
        assert torch.equal(state["v"][b : b + 1], after["v"])
        assert torch.equal(state["count"][b : b + 1], after["count"])
        assert torch.equal(dirty.grad[valid, b], alone.grad[:, 0])


def test_masked_single_step() -> None:
    node = Leaky(channels=4, step_mode="s")
    x = random(3, 4)
    _, state = node.functional(x)
    mask = torch.tensor([True, False, True])
    spikes, after = node.functional(x.masked_fill(~mask[:, None], torch.nan), state, mask)
    full, moved = node.functional(x, state)
    assert torch.equal(spikes[mask], full[mask])
    assert (spikes[1] == 0).all()
    assert torch.equal(after["v"][1], state["v"][1])
    assert torch.equal(after["v"][mask], moved["v"][mask])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_spikes_have_the_inputs_dtype_and_states_stay_wide(dtype: torch.dtype) -> None:
    node = Leaky(channels=4).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    spikes, state = node.functional(random(5, 2, 4).to(dtype))
    assert spikes.dtype == dtype
    assert {value.dtype for value in state.values()} == {wide}
    assert {value.dtype for value in node.init_state(random(5, 2, 4).to(dtype)).values()} == {wide}
    node(random(5, 2, 4).to(dtype))
    assert node.v.dtype == wide


def test_states_stay_wide_when_the_node_becomes_half() -> None:
    node = Leaky(channels=4)
    node(random(5, 2, 4))
    before = node.v
    assert node.bfloat16().v.dtype == torch.float32
    assert torch.equal(node.v, before)
    assert node.g.dtype == torch.bfloat16
    assert node.double().v.dtype == torch.float64


def test_autocast_does_not_reach_the_recurrence() -> None:
    class Matrix(Leaky):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
            return super().step(x @ torch.eye(4), state)

    x = random(5, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spikes, state = Matrix(channels=4).functional(x)
    assert state["v"].dtype == torch.float32
    assert torch.equal(state["v"], Leaky(channels=4).functional(x)[1]["v"])
    assert spikes.dtype == torch.float32


def test_potentials_are_kept_on_request() -> None:
    x = random(6, 2, 4)
    node = Leaky(channels=4, store_v_seq=True)
    node(x)
    assert torch.equal(node.v_seq[-1], node.v)
    assert node.v_seq.shape == x.shape
    assert torch.equal((node.v_seq >= 1).float(), Leaky(channels=4)(x))
    stepwise = Leaky(channels=4, store_v_seq=True, step_mode="s")
    for x_t in x:
        stepwise(x_t)
    assert torch.equal(stepwise.v_seq, node.v_seq)
    functional.detach_net(node)
    assert not node.v_seq.requires_grad
    functional.reset_net(node)
    assert node.v_seq is None


def test_monitors_see_it() -> None:
    node = Leaky(channels=4, store_v_seq=True)
    net = nn.Sequential(nn.Linear(4, 4), node)
    spikes = monitor.OutputMonitor(net, instance=Leaky)
    potentials = monitor.AttributeMonitor("v_seq", pre_forward=False, net=net, instance=Leaky)
    out = net(random(5, 2, 4))
    assert torch.equal(spikes.records[0], out)
    assert potentials.records[0].shape == (5, 2, 4)


def test_copies_and_pickles() -> None:
    node, x = Leaky(channels=4), random(5, 2, 4)
    node(x)
    functional.detach_net(node)
    expected = copy.deepcopy(node)(x)
    assert torch.equal(pickle.loads(pickle.dumps(node))(x), expected)
    assert set(node.state_dict()) == {"g"}
    functional.reset_net(node)
    assert torch.equal(node(x), Leaky(channels=4)(x))


def test_detach_cuts_the_graph() -> None:
    node, x = Leaky(channels=4), random(5, 2, 4).requires_grad_()
    node(x)
    functional.detach_net(node)
    node(x.detach())
    node.v.sum().backward()
    assert x.grad is None


@pytest.mark.skipif(not hasattr(base, "to_functional_forward"), reason="0.0.0.0.14 has no functional states")
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_functional_states_of_spikingjelly(step_mode: str) -> None:
    node, x = Leaky(channels=4, step_mode=step_mode), random(*(5, 2, 4)[step_mode == "s" :])
    forward = base.to_functional_forward(node)
    (spikes,), states = forward((x,), tuple(base.extract_memories(node)))
    expected, after = node.functional(x)
    assert torch.equal(spikes, expected)
    assert torch.equal(states[0], after["v"])
    (again,), _ = forward((x,), states)
    assert torch.equal(again, node.functional(x, after)[0])
    assert node.v is None


def test_whatever_the_step_mode_says() -> None:
    x = random(5, 2, 4)
    node, other = Leaky(channels=4), Leaky(channels=4, step_mode="s")
    assert torch.equal(node.single_step_forward(x[0]), other(x[0]))
    assert torch.equal(other.multi_step_forward(x), node(x))


def test_compiles_without_a_break() -> None:
    node, x, mask = Leaky(channels=4), random(5, 2, 4), random(5, 2, seed=3) > 0
    for arguments in [(x,), (x, mask)]:
        compiled = torch.compile(node, fullgraph=True, backend="aot_eager")
        expected = copy.deepcopy(node)(*arguments)
        assert torch.equal(compiled(*arguments), expected)
        functional.detach_net(node)


def test_a_node_without_single_steps_says_so() -> None:
    node = WholeOnly(channels=4)
    assert node.step_mode == "m"
    functional.set_step_mode(node, "s")
    assert node.multi_step_forward(random(5, 2, 4)).shape == (5, 2, 4)
    node.reset()
    for attempt in (lambda: node(random(5, 2, 4)), lambda: WholeOnly(channels=4, step_mode="s")):
        with pytest.raises(ValueError, match='WholeOnly: step_mode "s" is not possible; this node has "m"'):
            attempt()


X = torch.zeros(5, 3, 4)


@pytest.mark.parametrize(
    ("x", "mask", "state", "error", "message"),
    [
        (torch.zeros(5, 4), None, None, ValueError, r"\[T, B, C, ...\], got shape \(5, 4\)"),
        (torch.zeros(5, 3, 7), None, None, ValueError, r"built for 4 channels, .* has 7"),
        (torch.zeros(0, 3, 4), None, None, ValueError, r"T = 0: \(0, 3, 4\)"),
        (torch.zeros(5, 3, 4).long(), None, None, TypeError, r"floating point, got torch.int64"),
        (X, torch.ones(5, 3), None, TypeError, r"must be bool, True = valid, got torch.float32"),
        (X, torch.ones(3, 5).bool(), None, ValueError, r"shape \(5, 3\) for this input, got \(3, 5\)"),
        (X, None, {"v": torch.zeros(2, 4), "count": torch.zeros(2, 1)}, ValueError, r"batch size 2, the input of 3"),
        (X, None, {"v": torch.zeros(3, 5), "count": torch.zeros(3, 1)}, ValueError, r"\(3, 4\), got \(3, 5\)"),
        (X, None, {"v": torch.zeros(3, 4)}, ValueError, r"\['v'\], it must have \['count', 'v'\]"),
        ([[1.0]], None, None, TypeError, "the input must be a tensor, got list"),
        (None, None, None, TypeError, "the input must be a tensor, got NoneType"),
        (X, [[True] * 3] * 5, None, TypeError, "the mask must be a tensor, got list"),
        (X, torch.ones(5, 3, dtype=torch.bool, device="meta"), None, ValueError, "mask is on meta, the input on cpu"),
        (X, None, (torch.zeros(3, 4),), TypeError, "the state must be a dict of tensors, got tuple"),
        (X, None, {"v": [0.0], "count": torch.zeros(3, 1)}, TypeError, "'v' must be a floating-point tensor, got list"),
        (X, None, {"v": torch.zeros(3, 4).long(), "count": torch.zeros(3, 1)}, TypeError, "got torch.int64"),
    ],
)
def test_input_that_does_not_fit(
    x: Tensor, mask: Tensor | None, state: State | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"Leaky: .*{message}"):
        Leaky(channels=4).functional(x, state, mask)


def test_single_step_of_wrong_rank() -> None:
    with pytest.raises(ValueError, match=r'in step_mode "s" the input is \[B, C, ...\], got shape \(4,\)'):
        Leaky(channels=4, step_mode="s")(torch.zeros(4))


def test_another_batch_size_is_no_silent_reset() -> None:
    node = Leaky(channels=4)
    node(torch.zeros(5, 3, 4))
    with pytest.raises(ValueError, match="batch size 3, the input of 2; reset the node"):
        node(torch.zeros(5, 2, 4))


def test_no_channels() -> None:
    with pytest.raises(ValueError, match="Leaky: channels is 0"):
        Leaky(channels=0)


def test_spikes_too_large_for_the_dtype() -> None:
    node = Leaky(channels=4)
    node.levels = 300
    node(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match=r"spikes up to 300 are not exact in torch\.bfloat16"):
        node(torch.zeros(2, 1, 4).bfloat16())


class Kernels(Leaky):
    """Its torch kernel answers 7, its CuPy kernel 8, if it may."""

    kernels = {  # noqa: RUF012
        "torch": Kernel(run=lambda x: 7),
        "cupy": Kernel(run=lambda x: 8, why_not=lambda x: "" if x is None or x.shape[0] == 1 else "needs one step"),
    }


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="Leaky: no backend 'cuppy'; did you mean 'cupy'"):
        Leaky(channels=4, backend="cuppy")


def test_cupy_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match='Kernels: backend "cupy" needs a CUDA device, and torch sees none'):
        Kernels(channels=4, backend="cupy")
    assert Kernels(channels=4).choose(X).run(X) == 7


def test_backend_is_a_contract_and_auto_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto, torch_only, cupy = (Kernels(channels=4, backend=name) for name in ("auto", "torch", "cupy"))
    assert [node.choose(X[:1]).run(X) for node in (auto, torch_only, cupy)] == [8, 7, 8]
    assert auto.choose(X).run(X) == 7
    with pytest.raises(RuntimeError, match='Kernels: backend "cupy" needs one step'):
        cupy.choose(X)
    with pytest.raises(RuntimeError, match='Leaky: backend "cupy" has no kernel for this neuron, which has: torch'):
        Leaky(channels=4, backend="cupy")


@pytest.mark.skipif(not hasattr(functional, "set_backend"), reason="SpikingJelly 2.x has no set_backend")
def test_set_backend_of_spikingjelly() -> None:
    net = nn.Sequential(Kernels(channels=4))
    functional.set_backend(net, "torch")
    assert net[0].backend == "torch"
    assert "cupy" in net[0].supported_backends
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="needs a CUDA device"):
            functional.set_backend(net, "cupy")


def test_surrogates_by_name() -> None:
    available = compat.surrogates()
    assert {"ATan", "Sigmoid", "Erf", "S2NN"} <= set(available)
    x = torch.tensor([-1.0, -1e-3, 0.0, 1e-3, 1.0], requires_grad=True)
    for name in available:
        module = compat.surrogate(name)
        assert module(x).tolist() == [0, 0, 1, 1, 1], name
        assert compat.surrogate(module) is module
    with pytest.raises(ValueError, match="no surrogate 'Atan'; did you mean 'ATan'"):
        compat.surrogate("Atan")
    with pytest.raises(TypeError, match="a name or a module"):
        compat.surrogate(3)


class Resting(Leaky):
    def fresh_state(self, x: Tensor, shape: torch.Size) -> State:
        return {name: value + 0.5 for name, value in super().fresh_state(x, shape).items()}


def test_a_resting_potential_is_where_states_begin() -> None:
    node, x = Resting(channels=4), random(3, 2, 4)
    given, own = (node.functional(x, state) for state in (node.init_state(x), None))
    torch.testing.assert_close(own, given, rtol=0, atol=0)
    node(x)
    assert torch.equal(node.v, own[1]["v"])
    assert not torch.equal(own[1]["v"], Leaky(channels=4).functional(x)[1]["v"])


def test_a_state_of_inference_mode_cannot_be_learned_from() -> None:
    node, x = Leaky(channels=4), random(3, 2, 4)
    with torch.inference_mode():
        node(x)
        node(x)
    with pytest.raises(ValueError, match=r"'v' was made in torch\.inference_mode\(\).* reset the node"):
        node(x)
    functional.reset_net(node)
    node(x)


def test_channels_on_the_last_axis() -> None:
    node, x = Leaky(channels=4, axis=-1), random(6, 3, 5, 4)
    spikes, state = node.functional(x)
    rows, after = Leaky(channels=4).functional(x.flatten(1, 2))
    assert torch.equal(spikes, rows.unflatten(1, (3, 5)))
    assert {name: tuple(value.shape) for name, value in state.items()} == {"v": (3, 5, 4), "count": (3, 5, 1)}
    assert torch.equal(state["v"].flatten(0, 1), after["v"])
    node(x)
    compat.spikingjelly("functional").detach_net(nn.Sequential(node))
    with pytest.raises(ValueError, match=r"the state 'v' must have shape \(3, 7, 4\), got \(3, 5, 4\)"):
        node(random(6, 3, 7, 4))
    node.reset()
    assert node(random(6, 3, 7, 4)).shape == (6, 3, 7, 4)
    assert "channels=4, axis=-1," in repr(node)
    assert pickle.loads(pickle.dumps(node)).axis == -1
    older = Leaky(channels=4)
    del older.__dict__["_axis"]  # as pickled before there was one
    assert older.axis == 2


def test_the_axis_of_a_step_counts_along_the_sequence() -> None:
    sequence, step = Leaky(channels=4, axis=3), Leaky(channels=4, axis=3, step_mode="s")
    x = random(6, 3, 5, 4, 2)
    assert torch.equal(torch.stack([step(x_t) for x_t in x]), sequence(x))
    step.reset()
    with pytest.raises(ValueError, match=r"a step of \[T, B, ...\] with the channels on axis 3, got shape \(3, 5\)"):
        step(x[0, :, :, 0, 0])


@pytest.mark.parametrize("axis", [0, 1, True, 2.0, "last"])
def test_an_axis_that_cannot_hold_channels(axis: Any) -> None:
    with pytest.raises(ValueError, match="expected 2 or more, or -1 and so on from the end"):
        Leaky(channels=4, axis=axis)
    with pytest.raises(ValueError, match=r"with the channels on axis -2, got shape \(6, 3, 4\)"):
        Leaky(channels=4, axis=-2)(random(6, 3, 4))
