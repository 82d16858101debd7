"""Checks: gradients are the same in each way in which autograd can ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_close, assert_same, forms, outcome, weights, whole
from sj_lang.testing.numerics import LAYOUTS
from sj_lang.testing.subject import Subject


@check(once=True)
def gradients_come_alone(subject: Subject) -> None:
    """Each gradient is the same if nothing else needs one: of x alone, of each parameter alone."""
    node, x = subject.node(), subject.x(7, 3)
    state = subject.state(node, x)
    for form in forms(subject):
        want = outcome(node, form, x, state)
        telling = {name for name, gradient in want.gradients.items() if bool(gradient.any())}
        parameters = {name for name, _ in node.named_parameters()} & telling
        states = {name for name in telling if name.startswith("state[")}
        groups = {"x": {"x"}, "the initial state": states, "the parameters": parameters}
        groups |= {f"the parameter {name}": {name} for name in parameters}
        for what, names in groups.items():
            if not names:
                continue
            with _needing_none(node, set(parameters) - names):
                got = outcome(node, form, x, state, needing=names)
            assert_same(subject, got, want, f"{form.__name__}, only {what} needs a gradient", x=x, state=state)


@contextmanager
def _needing_none(node: nn.Module, names: set[str]) -> Iterator[None]:
    frozen = [parameter for name, parameter in node.named_parameters() if name in names and parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _of_a_sum(x: Tensor) -> Tensor:
    return torch.ones((), dtype=x.dtype, device=x.device).expand(x.shape)


def _same_at_every_step(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape)


def _turned(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


INCOMING: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS,
    "expanded from one number, as sum() gives it,": _of_a_sum,
    "expanded along the first axis": _same_at_every_step,
}


@check(once=True)
def incoming_gradients(subject: Subject) -> None:
    """Incoming gradients, expanded or strided, count as their contiguous copies, and each alone."""
    node = subject.node()
    for trailing in ((), (4,), (2, 3)):
        x = subject.x(7, 3, *trailing)
        state = subject.state(node, x)

        def taken(incoming: State, x: Tensor = x, state: State = state) -> State:
            return outcome(node, whole, x, state, incoming=incoming).gradients

        spikes, final = whole(node, x, state)
        dense = {name: weights(name, value).to(value.dtype) for name, value in {"spikes": spikes, **final}.items()}
        for layout, lay in INCOMING.items():
            laid = {"spikes": lay(dense["spikes"])}
            laid |= {name: (_turned if layout in LAYOUTS else lay)(dense[name]) for name in final}
            got, want = taken(laid), taken({name: value.contiguous() for name, value in laid.items()})
            for name in want:
                what = f"incoming gradient {layout}, x {list(x.shape)}: gradient of {name}"
                assert_close(got[name], want[name], what)
        if final and not trailing:
            together = taken(dense)
            alone = [taken({name: value}) for name, value in dense.items() if value.numel()]
            for name in together:
                total = torch.stack([each[name] for each in alone]).sum(0)
                assert_close(total, together[name], f"gradients that come in one by one, added up: gradient of {name}")


@check()
def without_a_graph(subject: Subject) -> None:
    """With no_grad, inference_mode or no leaf that needs a gradient: equal spikes and states."""
    node = subject.node()
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "torch.no_grad": torch.no_grad,
        "torch.inference_mode": torch.inference_mode,
        "no leaf that needs a gradient": lambda: _needing_none(node, {name for name, _ in node.named_parameters()}),
    }
    for batch, masked, *places in ((3, False), (40, subject.traits.takes_mask), (3, subject.traits.takes_mask, 4)):
        x = subject.x(9, batch, *places)
        state = subject.state(node, x)
        mask = (torch.arange(9, device=x.device)[:, None] + torch.arange(batch, device=x.device)) % 4 != 1
        used_mask = mask if masked else None
        for form in forms(subject):
            want = outcome(node, form, x, state, used_mask)
            for name, way in ways.items():
                with way():
                    got = outcome(node, form, x, state, used_mask, grad=False)
                what = f"{form.__name__}, {name}"
                assert_same(subject, got, want, what, x=x, state=state, mask=used_mask)
