"""Checks: states are plain tensors, and calls leave nothing behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_equal, detached, forms, outcome, stepwise, whole
from sj_lang.testing.settings import changes, settings
from sj_lang.testing.subject import Subject


@check()
def state_is_plain_tensors(subject: Subject) -> None:
    """States are tensors, no views, new at each call, batch on axis 0; None is init_state."""
    node, x = subject.node(), subject.x(5, 3)
    initial = node.init_state(x)  # type: ignore[operator]
    spikes, final = whole(node, x)
    more, later = whole(node, x)
    _assert_plain(subject, initial, "init_state", x=x, spikes=spikes)
    _assert_plain(subject, final, "functional", x=x, spikes=spikes)
    for batch in (1, 3) if subject.traits.takes_mask else ():
        some, mask = subject.x(5, batch), subject.gaps(5, batch)
        fired, after = whole(node, some, None, mask)
        _assert_plain(subject, after, f"functional with a mask, {batch} in the batch,", x=some, spikes=fired)
    asking = sorted(name for name, value in initial.items() if value.requires_grad and value.is_leaf)
    assert not asking, f"init_state asks for a gradient of its own of what it hands out: {', '.join(asking)}"
    calls = {"init_state": (initial, node.init_state(x * float("nan"))), "functional": (final, later)}  # type: ignore[operator]
    calls["init_state of a batch of 1"] = node.init_state(x[:, :1]), node.init_state(x[:, :1])  # type: ignore[operator]
    for source, (first, second) in (calls | {"functional ": ({"spikes": spikes}, {"spikes": more})}).items():
        memory = [
            (name, value.data_ptr()) for state in (first, second) for name, value in state.items() if value.numel()
        ]
        shared = sorted({name for name, at in memory if [other for _, other in memory].count(at) > 1})
        assert not shared, f"{source} hands out the same memory again, x {list(x.shape)}: {', '.join(shared)}"
    for name, value in calls["init_state"][1].items():
        assert_equal(value, initial[name], f"init_state of NaN: '{name}' of x {list(x.shape)}")
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
        compact = value.untyped_storage().nbytes() <= value.numel() * value.element_size()
        assert compact, f"{what} keeps a larger tensor alive: return a copy"
        for other, tensor in (("the spikes", spikes), ("the input", x)):
            assert value.data_ptr() != tensor.data_ptr() or not value.numel(), f"{what} shares memory with {other}"


@check(once=True)
def arguments_are_not_changed(subject: Subject) -> None:
    """functional changes no argument, nothing that it returned before, and nothing in the node."""
    node, x = subject.node(), subject.x(5, 3)
    memories = {name: deepcopy(value) for name, value in node.named_memories()}  # type: ignore[operator]
    arguments: dict[str, Tensor] = {"x": x, **{f"state '{name}'": v for name, v in subject.state(node, x).items()}}
    arguments |= {f"the node's '{name}'": value for name, value in (*node.named_parameters(), *node.named_buffers())}
    if subject.traits.takes_mask:
        arguments["mask"] = torch.arange(5, device=x.device)[:, None] < torch.tensor([5, 3, 0], device=x.device)
    before = {name: (value.clone(), value._version, value.requires_grad) for name, value in arguments.items()}
    modes = _modes(node)
    state = {name[7:-1]: value for name, value in arguments.items() if name.startswith("state '")}
    handed = dict(state)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            returned, after = whole(node, x, state, arguments.get("mask"))
            first, states = returned.clone(), detached(after)
            whole(node, subject.x(5, 3, seed=1))
            second, _ = whole(node, x, state, arguments.get("mask"))
        assert_equal(returned, first, "spikes that were returned, after later calls")
        for name, value in after.items():
            assert_equal(value, states[name], f"state '{name}' that was returned, after later calls")
        same = state.keys() == handed.keys() and all(state[name] is value for name, value in handed.items())
        assert same, "the dict of states that was handed in has other entries after the call"
        again = "the same call again, after another one, gives another answer (a state kept outside `state`, dropout?)"
        assert_equal(second, first, again)
        for name, value in arguments.items():
            assert_equal(value, before[name][0], f"{name} after the call")
            assert value._version == before[name][1], f"{name} was written to by the call"
            assert value.requires_grad == before[name][2], f"the call sets requires_grad of {name}"
            assert not value.is_leaf or value.grad is None, f"the call sets the gradient of {name}"
    for name, value in node.named_memories():  # type: ignore[operator]
        assert _same(value, memories[name]), f"functional changed the memory '{name}' of the node"
    assert _modes(node) == modes, f"functional changes {modes} of the node to {_modes(node)}"
    modes["training"] = node.eval().training
    for mode in ("m", "s") if subject.traits.steps else ("m",):
        node.step_mode, modes["step_mode"] = mode, mode  # type: ignore[assignment]
        node.reset()  # type: ignore[operator]
        node(x if mode == "m" else x[0])
        for form in ("multi_step_forward", "single_step_forward") if subject.traits.steps else ():
            if hasattr(node, form):
                getattr(node, form)(x if form[0] == "m" else x[0])
        assert _modes(node) == modes, f"forward changes {modes} of the node to {_modes(node)}"


def _modes(node: nn.Module) -> dict[str, Any]:
    return {name: getattr(node, name, None) for name in ("step_mode", "training", "backend", "store_v_seq")}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    return type(a) is type(b) and bool(a == b)


@check(once=True)
def nothing_global_changes(subject: Subject) -> None:
    """No call or backward pass draws from a global random generator or changes a setting."""
    default = torch.get_default_dtype()
    try:
        for dtype, grad in product((torch.float32, torch.float64), (True, False)):
            with torch.set_grad_enabled(grad):
                _assert_nothing_changes(subject.at(dtype), grad)
    finally:
        torch.set_default_dtype(default)


def _assert_nothing_changes(subject: Subject, grad: bool) -> None:
    node, x = subject.node(), subject.x(5, 3).requires_grad_()
    state, mask = subject.state(node, x) or None, subject.gaps(len(x), 3) if subject.traits.takes_mask else None
    calls: dict[str, Callable[[], object]] = {
        "init_state": lambda: node.init_state(x),  # type: ignore[operator]
        **{f"functional, {form.__name__}": partial(form, node, x, state, mask) for form in forms(subject)},
        "forward": lambda: node(x),
        "reset": lambda: node.reset(),  # type: ignore[operator]
    }
    if grad:
        calls["the backward pass"] = lambda: outcome(node, whole, x)
    for training in (True, False):
        node.train(training)
        for name, call in calls.items():
            # another than the node's own, which an earlier call may have set
            torch.set_default_dtype(torch.float32 if subject.dtype == torch.float64 else torch.float64)
            before = _surroundings(subject.device)
            call()
            changed = changes(before, _surroundings(subject.device))
            where = f"in {'train' if training else 'eval'}(){'' if grad else ' and no_grad'}"
            assert not changed, f"{name}, {where}, changes {', '.join(changed)}"


def _surroundings(device: str) -> dict[str, object]:
    """What a process has once, and a node must leave alone."""
    on_cuda = torch.cuda.get_rng_state(device).tolist() if device.startswith("cuda") else None
    return settings() | {"the state of CUDA's random generator": on_cuda}


APART = {"_parameters", "_buffers", "_modules", "_memories", "_memories_rv", "v_seq"}
CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)


@check(once=True)
def nothing_piles_up(subject: Subject) -> None:
    """Repeated calls on one input leave nothing behind except memories and v_seq."""
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
    growth = ", ".join(f"'{name}' from {few} to {many} entries" for name, (few, many) in grown.items())
    assert not grown, f"what the node holds grows with each call on the same input: {growth}"


def _held(node: nn.Module) -> dict[str, int]:
    """Attribute of the node, its class or a part -> entries of the tensors and containers in it."""
    seen = {id(value) for value in (*node.parameters(), *node.buffers())}
    held = {}
    for path, part in node.named_modules():
        attributes = {name: value for name, value in vars(part).items() if name not in APART}
        shared = {name: value for kind in type(part).__mro__ for name, value in vars(kind).items() if name[:2] != "__"}
        containers = {name: value for name, value in shared.items() if isinstance(value, (Tensor, *CONTAINERS))}
        for name, value in {**containers, **attributes}.items():
            held[f"{path}.{name}" if path else name] = _entries(value, seen)
    return held


def _entries(value: Any, seen: set[int]) -> int:
    """Entries of tensors, their graphs and containers, each once; modules are counted as parts."""
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
    """The nodes of autograd's graph that lead to a tensor."""
    nodes, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            ahead += [before for before, _ in node.next_functions]
    return len(nodes)
