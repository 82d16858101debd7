"""The base class of nodes: sequences, states, masks, dtypes, copies."""

import copy
import pickle
from typing import Any

import pytest
import torch
from leaky import Leaky, random
from torch import Tensor, nn

from sj_lang import compat, masks
from sj_lang.neuron import State

functional: Any = compat.spikingjelly("functional")
monitor: Any = compat.spikingjelly("monitor")
base: Any = compat.spikingjelly("base")


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
    state = {"v": random(3, 4, seed=1), "count": torch.zeros(3, 1)}
    before = copy.deepcopy(state)
    _, after = node.functional(x, state)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert node.v is None
    assert after["v"].data_ptr() != state["v"].data_ptr()
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


X = torch.zeros(5, 3, 4)


class Resting(Leaky):
    def fresh_state(self, x: Tensor, shape: torch.Size) -> State:
        return {name: value + 0.5 for name, value in super().fresh_state(x, shape).items()}


def test_a_resting_potential_is_where_states_begin() -> None:
    node, x = Resting(channels=4), random(3, 2, 4)
    explicit, implicit = (node.functional(x, state) for state in (node.init_state(x), None))
    torch.testing.assert_close(implicit, explicit, rtol=0, atol=0)
    node(x)
    assert torch.equal(node.v, implicit[1]["v"])
    assert not torch.equal(implicit[1]["v"], Leaky(channels=4).functional(x)[1]["v"])
