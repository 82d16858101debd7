"""Checks: the node lives as SpikingJelly's modules do: state, reset, detach, copies, saving, moving."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_close, assert_equal, assert_same, detached, outcome, stepwise, whole
from sj_lang.testing.subject import State, Subject


@check()
def state_is_plain_tensors(subject: Subject) -> None:
    """States are tensors of their own, no views, batch on axis 0, float32 or float64; None starts as init_state."""
    node, x = subject.node(), subject.x(5, 3)
    initial = node.init_state(x)  # type: ignore[operator]
    spikes, final = whole(node, x)
    _assert_plain(subject, initial, "init_state", x=x, spikes=spikes)
    _assert_plain(subject, final, "functional", x=x, spikes=spikes)
    for batch in (1, 3) if subject.traits.takes_mask else ():
        some, mask = subject.x(5, batch), _gaps(5, batch, x.device)
        fired, after = whole(node, some, None, mask)
        _assert_plain(subject, after, f"functional with a mask, {batch} in the batch,", x=some, spikes=fired)
    got, explicit = outcome(node, whole, x), outcome(node, whole, x, initial)
    assert_equal(got.spikes, explicit.spikes, "no state against init_state")
    for name in final:
        assert_equal(got.state[name], explicit.state[name], f"no state against init_state: state '{name}'")


def _assert_plain(subject: Subject, state: State, source: str, *, x: Tensor, spikes: Tensor) -> None:
    want = torch.float64 if subject.dtype == torch.float64 else torch.float32
    batch = x.shape[1]
    assert isinstance(state, dict), f"{source} returns a {type(state).__name__}, not a dict"
    for name, value in state.items():
        what = f"state '{name}' of {source}"
        assert isinstance(value, Tensor), f"{what} is a {type(value).__name__}, not a tensor"
        assert value.dim() > 0, f"{what} has no batch axis"
        assert value.shape[0] == batch, f"{what}: axis 0 has {value.shape[0]} entries, the batch {batch}"
        assert value.dtype == want, f"{what} is {value.dtype}, it must be {want} for {subject.dtype} input"
        assert not value._is_view(), f"{what} is a view: SpikingJelly's detach_net fails on it"
        own = value.untyped_storage().nbytes() <= value.numel() * value.element_size()
        assert own, f"{what} keeps a larger tensor alive: return a copy"
        for other, tensor in (("the spikes", spikes), ("the input", x)):
            assert value.data_ptr() != tensor.data_ptr() or not value.numel(), f"{what} shares memory with {other}"


def _gaps(length: int, batch: int, device: torch.device) -> Tensor:
    """A mask [T, B] with a masked step between valid ones in every row, each row at a step of its own."""
    hole = 1 + torch.arange(batch, device=device) % (length - 2)
    return torch.arange(length, device=device)[:, None] != hole


@check(once=True)
def arguments_are_not_changed(subject: Subject) -> None:
    """functional changes neither its arguments nor the node: not x, not the state, not the mask, not a memory."""
    node, x = subject.node(), subject.x(5, 3)
    memories = {name: deepcopy(value) for name, value in node.named_memories()}  # type: ignore[operator]
    given: dict[str, Tensor] = {"x": x, **{f"state '{name}'": v for name, v in subject.state(node, x).items()}}
    if subject.traits.takes_mask:
        given["mask"] = torch.arange(5, device=x.device)[:, None] < torch.tensor([5, 3, 0], device=x.device)
    before = {name: (value.clone(), value._version) for name, value in given.items()}
    state = {name[7:-1]: value for name, value in given.items() if name.startswith("state")}
    handed = dict(state)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            first, _ = whole(node, x, state, given.get("mask"))
            whole(node, subject.x(5, 3, seed=1))
            second, _ = whole(node, x, state, given.get("mask"))
        same = state.keys() == handed.keys() and all(state[name] is value for name, value in handed.items())
        assert same, "the dict of states that was handed in has other entries after the call"
        again = "the same call again, after another one, gives another answer (a state kept outside `state`, dropout?)"
        assert_equal(second, first, again)
        for name, value in given.items():
            assert_equal(value, before[name][0], f"{name} after the call")
            assert value._version == before[name][1], f"{name} was written to by the call"
    for name, value in node.named_memories():  # type: ignore[operator]
        assert _same(value, memories[name]), f"functional changed the memory '{name}' of the node"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    return type(a) is type(b) and bool(a == b)


APART = {"_parameters", "_buffers", "_modules", "_memories", "_memories_rv", "v_seq"}
CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)


@check(once=True)
def nothing_piles_up(subject: Subject) -> None:
    """What the node holds beside parameters, buffers, memories and v_seq does not grow with calls on the same input."""
    node, x = subject.node(), subject.x(5, 3)
    state = subject.state(node, x)

    def calls() -> dict[str, int]:
        whole(node, x, state)
        if subject.traits.steps:
            stepwise(node, x, state)
        node(x)
        node.detach()  # type: ignore[operator]
        return _held(node)

    calls()  # what is computed once and kept is there
    before, after = calls(), calls()
    grown = {name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0)}
    told = ", ".join(f"'{name}' from {few} to {many} entries" for name, (few, many) in grown.items())
    assert not grown, f"what the node holds grows with each call on the same input: {told}"


def _held(node: nn.Module) -> dict[str, int]:
    """Attribute of the node, its class or a part -> the entries of the tensors and containers that it leads to."""
    seen = {id(value) for value in (*node.parameters(), *node.buffers())}
    held = {}
    for path, part in node.named_modules():
        own = {name: value for name, value in vars(part).items() if name not in APART}
        shared = {name: value for kind in type(part).__mro__ for name, value in vars(kind).items() if name[:2] != "__"}
        containers = {name: value for name, value in shared.items() if isinstance(value, (Tensor, *CONTAINERS))}
        for name, value in {**containers, **own}.items():
            held[f"{path}.{name}" if path else name] = _entries(value, seen)
    return held


def _entries(value: Any, seen: set[int]) -> int:
    """Entries of tensors and of their graphs, and of containers, each counted once; modules are counted as parts."""
    if id(value) in seen or isinstance(value, nn.Module | type | ModuleType):
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.numel() + _graph(value)
    if isinstance(value, Mapping):
        return len(value) + sum(_entries(inner, seen) for inner in value.values())
    if isinstance(value, CONTAINERS):
        return len(value) + sum(_entries(inner, seen) for inner in value)
    return _entries(vars(value), seen) if hasattr(value, "__dict__") else 0


def _graph(value: Tensor) -> int:
    """The nodes of autograd's graph behind a tensor."""
    found, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [before for before, _ in node.next_functions]
    return len(found)


@check(once=True)
def forward_wraps_functional(subject: Subject) -> None:
    """forward is functional with the state kept in the node, in both step modes, with a mask too."""
    node, x = subject.node(), subject.x(6, 3)
    want, middle = whole(node, x)
    more, _ = whole(node, x, middle)
    assert_equal(node(x), want, "forward against functional")
    assert_equal(node(x), more, "forward again, with the state kept")
    if subject.traits.steps:
        node.reset()  # type: ignore[operator]
        _functional().set_step_mode(net=node, step_mode="s")
        got = torch.stack([node(x_t) for x_t in x.unbind(0)])
        _functional().set_step_mode(net=node, step_mode="m")
        assert_equal(got, want, "forward, step after step, against functional")
        node.reset()  # type: ignore[operator]
        node.step_mode = "s"  # type: ignore[assignment]
        got = _functional().multi_step_forward(x_seq=x, single_step_module=node)
        assert_equal(got, want, "functional.multi_step_forward of SpikingJelly against functional")
        node.step_mode = "m"  # type: ignore[assignment]
    if subject.traits.takes_mask:
        node.reset()  # type: ignore[operator]
        mask = torch.arange(6, device=x.device)[:, None] < torch.tensor([6, 2, 0], device=x.device)
        assert_equal(node(x, mask=mask), whole(node, x, None, mask)[0], "forward with a mask against functional")


@check(once=True)
def monitors_record(subject: Subject) -> None:
    """SpikingJelly's monitors see what the node fires, its gradients, and v_seq where potentials can be stored."""
    node, x = subject.node(), subject.x(6, 3).requires_grad_()
    net, kind, monitors = nn.Sequential(node), type(node), spikingjelly("monitor")
    seen = {
        "OutputMonitor": monitors.OutputMonitor(net=net, instance=kind),
        "GradInputMonitor": monitors.GradInputMonitor(net=net, instance=kind),
    }
    wanted: dict[str, Any] = {}
    if hasattr(node, "store_v_seq"):
        node.store_v_seq = True  # type: ignore[assignment]
        seen["AttributeMonitor of v_seq"] = monitors.AttributeMonitor(
            attribute_name="v_seq", pre_forward=False, net=net, instance=kind
        )
    spikes = net(x)
    (wanted["GradInputMonitor"],) = torch.autograd.grad(spikes.sum(), x)
    wanted["OutputMonitor"] = spikes
    wanted["AttributeMonitor of v_seq"] = getattr(node, "v_seq", None)
    for name, monitor in seen.items():
        monitor.remove_hooks()
        assert len(monitor.records) == 1, f"{name} has {len(monitor.records)} records of one call"
        record, want = monitor.records[0], wanted[name]
        assert isinstance(record, Tensor), f"{name} records a {type(record).__name__}"
        assert_equal(record, want, f"what {name} records")


@check(once=True)
def potentials_are_stored(subject: Subject) -> None:
    """With store_v_seq v_seq is the potentials until reset, each at its step, also in single steps; spikes stay."""
    node, x = subject.node(), subject.x(6, 3)
    if not hasattr(node, "store_v_seq"):
        return
    spikes = whole(node, x)[0]
    node.store_v_seq = True  # type: ignore[assignment]
    assert_equal(node(x), spikes, "spikes with store_v_seq")
    sequence = node.v_seq
    assert isinstance(sequence, Tensor), f"v_seq after a sequence is a {type(sequence).__name__}"
    assert sequence.shape == x.shape, f"v_seq of a sequence has shape {list(sequence.shape)}, x {list(x.shape)}"
    node.reset()  # type: ignore[operator]
    assert node.v_seq is None, "v_seq is still there after reset"
    if subject.traits.steps:
        node.step_mode = "s"
        for x_t in x.unbind(0):
            node(x_t)
        steps = node.v_seq
        assert isinstance(steps, Tensor), f"v_seq after single steps is a {type(steps).__name__}"
        assert_close(steps, sequence, "v_seq of single steps against v_seq of the sequence")
    if subject.traits.takes_mask:
        _potentials_under_a_mask(subject)


def _potentials_under_a_mask(subject: Subject) -> None:
    """Those of the valid steps, at their places, as if the others were not there; in single steps too."""
    node, x = subject.node(), subject.x(6, 3)
    node.store_v_seq = True  # type: ignore[assignment]
    mask = _gaps(6, 3, x.device)
    mask[0, 1] = mask[-1, 2] = False
    junk = x.masked_fill(~mask[..., None], float("nan"))
    kept = {"a sequence": _kept(node, junk, mask)}
    if subject.traits.steps:
        node.step_mode = "s"  # type: ignore[assignment]
        node.reset()  # type: ignore[operator]
        for x_t, mask_t in zip(junk, mask, strict=True):
            node(x_t, mask=mask_t)
        kept["single steps"] = node.v_seq  # type: ignore[assignment]
        node.step_mode = "m"  # type: ignore[assignment]
    for name, v in kept.items():
        assert v.shape == x.shape, f"v_seq of {name} with a mask has shape {list(v.shape)}, x {list(x.shape)}"
    for b in range(x.shape[1]):
        valid = mask[:, b]
        want = _kept(node, x[valid, b : b + 1], None)
        for name, v in kept.items():
            assert_close(v[valid, b : b + 1], want, f"v_seq of {name}, row {b}, against its valid steps alone")


def _kept(node: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """v_seq of a sequence from rest."""
    node.reset()  # type: ignore[operator]
    node(x) if mask is None else node(x, mask=mask)
    assert isinstance(node.v_seq, Tensor), f"v_seq after a sequence is a {type(node.v_seq).__name__}"
    return node.v_seq


@check(once=True)
def reset_forgets(subject: Subject) -> None:
    """After reset, and after functional.reset_net, the node answers as at first, for another batch size too."""
    node, x = subject.node(), subject.x(6, 3)
    net = nn.Sequential(node)
    first = net(x)
    net(subject.x(6, 3, seed=1))
    node.reset()  # type: ignore[operator]
    assert_equal(net(x), first, "after reset")
    _functional().reset_net(net=net)
    assert_equal(net(x), first, "after functional.reset_net")
    _functional().reset_net(net=net)
    assert net(subject.x(6, 2)).shape[1] == 2, "another batch size after functional.reset_net"


@check(once=True)
def detach_cuts(subject: Subject) -> None:
    """After detach and functional.detach_net, with a mask or not, values go on and gradients do not reach back."""
    _assert_detached(subject, 3, masked=False)
    for batch in (1, 3) if subject.traits.takes_mask else ():
        _assert_detached(subject, batch, masked=True)


def _assert_detached(subject: Subject, batch: int, *, masked: bool) -> None:
    for cut in ("detach", "functional.detach_net"):
        node, x = subject.node(), subject.x(6, batch)
        given = {"mask": _gaps(6, batch, x.device)} if masked else {}
        want = whole(node, x, detached(whole(node, x, None, given.get("mask"))[1]))[0]
        leaf = x.clone().requires_grad_()
        node(leaf, **given)
        if cut == "detach":
            node.detach()  # type: ignore[operator]
        else:
            _functional().detach_net(net=nn.Sequential(node))
        later = node(x)
        where = f"{cut}, {batch} in the batch, with a mask" if masked else cut
        assert_equal(later, want, f"the sequence after {where}")
        parameters = [p for p in node.parameters() if p.requires_grad]
        if later.requires_grad:
            reached = torch.autograd.grad(later.sum(), [leaf, *parameters], allow_unused=True)[0]
            cuts = reached is None or not bool(reached.any())
            assert cuts, f"{where} leaves a gradient from the later to the earlier"


@check(once=True)
def eval_changes_nothing(subject: Subject) -> None:
    """train() and eval() give the same spikes, states and gradients."""
    node, x = subject.node(), subject.x(6, 3)
    want = outcome(node.train(), whole, x)
    assert_same(subject, outcome(node.eval(), whole, x), want, "eval() against train()", x=x)


@check(once=True)
def copies_are_independent(subject: Subject) -> None:
    """deepcopy and pickle, before use and with state: the copy goes on as the original, and shares nothing with it."""
    for used in (False, True):
        node, x = subject.node(), subject.x(6, 3)
        if used:
            node(x)
            node.detach()  # type: ignore[operator]
        copies = {"deepcopy": deepcopy(node), "pickle": pickle.loads(pickle.dumps(node))}
        want = deepcopy(node)(x)
        for name, copy in copies.items():
            when = f"{name} {'with state' if used else 'before use'}"
            mine = {parameter.data_ptr() for parameter in node.parameters()}
            assert not any(p.data_ptr() in mine for p in copy.parameters()), f"{when}: parameters are shared"
            assert_equal(copy(x), want, when)
        assert_equal(node(x), want, "the original, after its copies ran")


@check(once=True)
def state_dict_is_complete(subject: Subject) -> None:
    """state_dict brings a fresh node to the same answers; it holds every parameter and no memory."""
    node, x = subject.node(seed=0), subject.x(9, 8)
    other = subject.node(seed=1)
    saved = {name: value.clone() for name, value in node.state_dict().items()}
    missing = sorted({name for name, _ in node.named_parameters()} - saved.keys())
    assert not missing, f"parameters not in state_dict: {', '.join(missing)}"
    node(x)
    node.detach()  # type: ignore[operator]
    assert node.state_dict().keys() == saved.keys(), "state_dict changes its keys by use: memories do not belong there"
    node.reset()  # type: ignore[operator]
    other.load_state_dict(saved)
    got, want = outcome(other, whole, x), outcome(node, whole, x)
    assert_same(subject, got, want, "a fresh node with the state_dict of another", x=x)


@check(once=True)
def moves(subject: Subject) -> None:
    """.to(dtype) and .to(device) work, before use and with state; states stay float32 beside bfloat16 parameters."""
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        node = subject.node()
        x = subject.x(5, 3)
        node(x)
        node.detach()  # type: ignore[operator]
        node = node.to(dtype=dtype).to(device=subject.device)
        for name, value in _tensors(node).items():
            assert value.itemsize >= 4, f".to({dtype}) makes the memory '{name}' {value.dtype}"
        spikes = node(x.to(dtype))
        assert spikes.dtype == dtype, f"after .to({dtype}) the spikes are {spikes.dtype}"
        for name, value in _tensors(node).items():
            assert value.dtype == kept, f"after .to({dtype}) the memory '{name}' is {value.dtype}, it must be {kept}"
            assert value.device.type == torch.device(subject.device).type, f"memory '{name}' is on {value.device}"


def _tensors(node: nn.Module) -> State:
    memories = dict(node.named_memories())  # type: ignore[operator]
    return {name: value for name, value in memories.items() if isinstance(value, Tensor)}


def _functional() -> Any:
    return spikingjelly("functional")
