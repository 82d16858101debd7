"""Checks: the node lives as SpikingJelly's modules do: reset, detach, copies, saving, moving."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from itertools import product

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_equal, assert_same, detached, forms, outcome, whole
from sj_lang.testing.subject import Subject


@check(once=True)
def reset_forgets(subject: Subject) -> None:
    """After reset and functional.reset_net the node answers as at first, for any batch size."""
    node = subject.node()
    net = nn.Sequential(node)
    for places in ((), (4,)):
        x = subject.x(6, 3, *places)
        first = net(x)
        net(subject.x(6, 3, *places, seed=1))
        node.reset()  # type: ignore[operator]
        assert_equal(net(x), first, f"after reset, x {list(x.shape)}")
        spikingjelly("functional").reset_net(net=net)
        assert_equal(net(x), first, f"after functional.reset_net, x {list(x.shape)}")
        spikingjelly("functional").reset_net(net=net)
    assert net(subject.x(6, 2)).shape[1] == 2, "another batch size after functional.reset_net"


@check(once=True)
def detach_cuts(subject: Subject) -> None:
    """After detach and functional.detach_net, values go on and gradients do not reach back."""
    _assert_detached(subject, 3, masked=False)
    for batch in (1, 3) if subject.traits.takes_mask else ():
        _assert_detached(subject, batch, masked=True)


def _assert_detached(subject: Subject, batch: int, *, masked: bool) -> None:
    for cut in ("detach", "functional.detach_net"):
        node, x = subject.node(), subject.x(6, batch)
        options = {"mask": subject.gaps(6, batch)} if masked else {}
        want = whole(node, x, detached(whole(node, x, None, options.get("mask"))[1]))[0]
        leaf = x.clone().requires_grad_()
        node(leaf, **options)
        if cut == "detach":
            node.detach()  # type: ignore[operator]
        else:
            spikingjelly("functional").detach_net(net=nn.Sequential(node))
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
    node = subject.node()
    for form, shape in product(forms(subject), ((6, 3), (6, 3, 4), (130, 3))):
        x = subject.x(*shape)
        state = subject.state(node, x)
        for start, mask in [(None, None), *([(state, subject.gaps(len(x), 3))] if subject.traits.takes_mask else [])]:
            want = outcome(node.train(), form, x, start, mask)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    got = outcome(node.eval(), form, x, start, mask, grad=grad)
                masked = "" if mask is None else " masked,"
                what = f"{form.__name__},{masked} eval(){'' if grad else ' and no_grad'} against train()"
                assert_same(subject, got, want, what, x=x, state=start, mask=mask)


@check(once=True)
def memory_may_be_reused(subject: Subject) -> None:
    """Inputs, states and masks that are written to between calls count with their new values."""
    for form, training, grad in product(forms(subject), (True, False), (True, False)):
        node, x = subject.node().train(training), subject.x(6, 3)
        state = subject.state(node, x)
        mask = subject.gaps(6, 3) if subject.traits.takes_mask else None
        where = f"{form.__name__}, in {'train' if training else 'eval'}(){'' if grad else ' and no_grad'}"
        with torch.set_grad_enabled(grad):
            calls: list[tuple[str, State | None, Tensor | None]]
            calls = [("the mask", state, mask), ("x and state", state, None), ("x", None, None)]
            for _, start, valid in calls:
                form(node, x, start, valid)
            x.copy_(subject.x(6, 3, seed=1))
            for value in state.values():
                value.copy_(value.flip(0))
            if mask is not None:
                mask.copy_(mask.flip(0).roll(1, 1))
            for what, start, valid in reversed(calls):
                got, _ = form(node, x, start, valid)
                copy = None if start is None else {name: value.clone() for name, value in start.items()}
                want, _ = form(subject.node(), x.clone(), copy, valid)
                assert_equal(got, want, f"{where}, after {what} was written to, x {list(x.shape)}")


def _assigned(node: nn.Module, donor: nn.Module) -> None:
    for mine, other in zip(node.parameters(), donor.parameters(), strict=True):
        mine.data = other.data.clone()


@torch.no_grad()
def _written(node: nn.Module, donor: nn.Module) -> None:
    for mine, other in zip(node.parameters(), donor.parameters(), strict=True):
        mine.copy_(other)


def _copied(donor: nn.Module) -> State:
    return {name: value.clone() for name, value in donor.state_dict().items()}


CHANGES: dict[str, Callable[[nn.Module, nn.Module], object]] = {
    "its weights were updated in place": _written,
    "its weights were assigned to .data": _assigned,
    "load_state_dict": lambda node, donor: node.load_state_dict(donor.state_dict()),
    "load_state_dict with assign=True": lambda node, donor: node.load_state_dict(_copied(donor), assign=True),
}


@check(once=True)
def weights_may_change(subject: Subject) -> None:
    """A used node computes with its present weights, in train() and eval(), however they came."""
    x, donor = subject.x(6, 3), subject.node(seed=1)
    for (what, change), training, grad in product(CHANGES.items(), (True, False), (True, False)):
        node, fresh = subject.node().train(training), subject.node()
        with torch.set_grad_enabled(grad):
            node(x)
            for form in forms(subject):
                form(node, x, None, None)
            change(node, donor)
            change(fresh, donor)
            where = f"in {'train' if training else 'eval'}(){'' if grad else ' and no_grad'}, after {what}"
            for form in forms(subject):
                got, want = outcome(node, form, x, grad=grad), outcome(fresh, form, x, grad=grad)
                assert_same(subject, got, want, f"{form.__name__} of a used node {where}, against a fresh one", x=x)
            node.reset()  # type: ignore[operator]
            what = f"forward of a used node {where} and reset, x {list(x.shape)}"
            assert_equal(node(x), fresh(x), f"{what}, against a fresh one")
    if subject.traits.any_length:
        node, fresh, long = subject.node().eval(), subject.node(), subject.x(1025, 1)
        with torch.no_grad():
            whole(node, long)
            _written(node, donor)
            _written(fresh, donor)
            got, want = outcome(node, whole, long, grad=False), outcome(fresh, whole, long, grad=False)
            assert_same(subject, got, want, "1025 steps of a used node in eval() and no_grad, with new weights", x=long)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": deepcopy,
    "pickle": lambda node: pickle.loads(pickle.dumps(node)),
}


@check(once=True)
def copies_are_independent(subject: Subject) -> None:
    """deepcopy and pickle, before and after use: the copy goes on as the original, apart."""
    for used in (False, True):
        node, x = subject.node(), subject.x(6, 3)
        if used:
            node(x)
            node.detach()  # type: ignore[operator]
        copies = {name: copied(node) for name, copied in COPIES.items()}
        want = deepcopy(node)(x)
        for name, copy in copies.items():
            when = f"{name} {'with state' if used else 'before use'}"
            mine = {parameter.data_ptr() for parameter in node.parameters()}
            assert not any(p.data_ptr() in mine for p in copy.parameters()), f"{when}: parameters are shared"
            assert_equal(copy(x), want, when)
        assert_equal(node(x), want, "the original, after its copies ran")
    for training, grad in product((True, False), (True, False)):
        with torch.set_grad_enabled(grad):
            _assert_copies_learn_apart(subject, training, grad)


def _assert_copies_learn_apart(subject: Subject, training: bool, grad: bool) -> None:
    """New weights of a copy of a used node count in the copy, and there alone."""
    x, donor = subject.x(6, 3), subject.node(seed=1)
    for name, copied in COPIES.items():
        node, fresh, other = subject.node().train(training), subject.node(), subject.node()
        _written(other, donor)
        for form in forms(subject):
            form(node, x, None, None)
        copy = copied(node)
        _written(copy, donor)
        where = f"in {'train' if training else 'eval'}(){'' if grad else ' and no_grad'}, {name} of a used node"
        for form, (what, mine, its) in product(
            forms(subject), (("copy", copy, other), ("original", node, fresh), ("copy", copy, other))
        ):
            got, want = outcome(mine, form, x, grad=grad), outcome(its, form, x, grad=grad)
            assert_same(subject, got, want, f"{where}: {form.__name__} of the {what}, the copy with new weights", x=x)


@check(once=True)
def state_dict_is_complete(subject: Subject) -> None:
    """state_dict brings a fresh node to the same answers: every parameter and no memory."""
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
    for name in saved:
        rest = {key: value for key, value in saved.items() if key != name}
        assert _refuses(other, rest), f"load_state_dict accepts a state_dict without '{name}'"
    assert _refuses(other, saved | {"of_another_node": torch.zeros(1)}), "load_state_dict accepts what has no place"


def _refuses(node: nn.Module, saved: State) -> bool:
    try:
        node.load_state_dict(saved)
    except RuntimeError:
        return True
    return False


@check(once=True)
def moves(subject: Subject) -> None:
    """.to(dtype) and .to(device) work; states stay float32 beside bfloat16 parameters."""
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        node = subject.node()
        x = subject.x(5, 3)
        node(x)
        node.detach()  # type: ignore[operator]
        with torch.no_grad():
            before = {name: parameter.mul_(1.01).clone() for name, parameter in node.named_parameters()}
        node = node.to(dtype=dtype).to(device=subject.device)
        for name, parameter in node.named_parameters():
            assert_equal(parameter, before[name].to(parameter.dtype), f"the parameter '{name}' after .to({dtype})")
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
