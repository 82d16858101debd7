"""Checks: a node does what its registration declares, no more and no less."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sj_lang.testing.check import check
from sj_lang.testing.compare import whole
from sj_lang.testing.refuse import assert_refuses
from sj_lang.testing.subject import Subject


@check(once=True)
def causal_as_declared(subject: Subject) -> None:
    """No later input reaches an earlier output or its gradient; if not declared so, one does."""
    node, x = subject.node(), subject.x(8)
    cuts = range(1, len(x))
    if subject.traits.causal:
        for cut in cuts:
            reached = _reach(node, x, cut)
            assert not reached, f"declared causal, but {reached} of steps from {cut} on reaches an output before it"
    else:
        assert any(_reach(node, x, cut) for cut in cuts), "declared not causal, but no later input reaches any output"


def _reach(node: nn.Module, x: Tensor, cut: int) -> str:
    """How the inputs from `cut` on reach an output before it: "the value", "the gradient" or ""."""
    other = torch.cat([x[:cut], 3.0 - 5.0 * x[cut:]])
    with torch.no_grad():
        before, _ = whole(node, x)
        after, _ = whole(node, other)
    if not torch.equal(before[:cut], after[:cut]):
        return "the value"
    leaf = x.detach().clone().requires_grad_()
    spikes, _ = whole(node, leaf)
    (gradient,) = torch.autograd.grad(spikes[:cut].sum(), leaf)
    return "the gradient" if bool((gradient[cut:] != 0).any()) else ""


@check(once=True)
def steps_as_declared(subject: Subject) -> None:
    """Declared: single-step mode works. Not declared: asking for it raises with a reason."""
    node, x = subject.node(), subject.x()

    def one_step() -> Tensor:
        node.step_mode = "s"  # type: ignore[assignment]
        spikes: Tensor = node.functional(x[0])[0]  # type: ignore[operator]
        return spikes

    if subject.traits.steps:
        assert one_step().shape == x[0].shape, "single-step mode: spikes of another shape than the input"
    else:
        assert_refuses(one_step, "a single step, which the node does not declare")


@check(once=True)
def carries_state_as_declared(subject: Subject) -> None:
    """Declared: there is a state. Not declared: the state is empty, before and after."""
    node, x = subject.node(), subject.x()
    initial = node.init_state(x)  # type: ignore[operator]
    _, final = whole(node, x)
    if subject.traits.carries_state:
        assert initial, "declared to carry state, but init_state returns none"
        assert initial.keys() == final.keys(), f"init_state has {sorted(initial)}, functional returns {sorted(final)}"
    else:
        assert not initial, f"declared to carry no state, but init_state returns {sorted(initial)}"
        assert not final, f"declared to carry no state, but functional returns {sorted(final)}"


@check(once=True)
def takes_mask_as_declared(subject: Subject) -> None:
    """Declared: a mask is obeyed. Not declared: one with a masked step raises."""
    node, x = subject.node(), subject.x()
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    mask[len(x) // 2 :, 0] = False
    if subject.traits.takes_mask:
        assert subject.traits.any_length, "takes_mask needs any_length: with steps removed the sequence is shorter"
        spikes, _ = whole(node, x, None, mask)
        plain, _ = whole(node, x)
        assert not bool(spikes[~mask].any()), "declared to take a mask, but masked steps fire"
        assert bool((plain[~mask] != 0).any()), "the inputs at the masked steps fire nothing: hand in others"
    else:
        assert_refuses(lambda: whole(node, x, None, mask), "a mask, which the node does not declare")


@check(once=True)
def any_length_as_declared(subject: Subject) -> None:
    """Declared: lengths 1 to 33 work. Not declared: another length raises with a reason."""
    node = subject.node()
    if subject.traits.any_length:
        for length in (1, 2, 3, 33, 5):
            x = subject.x(length)
            assert whole(node, x)[0].shape == x.shape, f"T = {length}: spikes of another shape than the input"
    else:
        x = subject.x()
        for other in (x[:-1], torch.cat([x, x[:1]])):
            assert_refuses(lambda other=other: whole(node, other), f"T = {len(other)}, which is not {len(x)}")  # type: ignore[misc]


@check(once=True)
def operations_are_counts(subject: Subject) -> None:
    """operations() says what a step costs, multiply-accumulates and accumulations, or None."""
    operations = getattr(subject.node(), "operations", None)
    cost = None if operations is None else operations()
    if cost is None:
        return
    pair = isinstance(cost, tuple) and len(cost) == 2
    assert pair, f"operations() is {cost!r}, not a pair"
    for what, count in zip(("multiply-accumulates", "accumulations"), cost, strict=True):
        good = isinstance(count, int | float) and 0 <= count < math.inf
        assert good, f"operations() has {count!r} {what}: a number, 0 or more, is right"
