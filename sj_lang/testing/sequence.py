"""Checks: a sequence is the same in single steps, in pieces, row by row and by its equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import (
    How,
    assert_close,
    assert_equal,
    assert_same,
    forms,
    outcome,
    pieces,
    splits,
    stepwise,
    whole,
)
from sj_lang.testing.subject import GAINS, Subject

ONES = ((True, 5, 2, 1), (False, 4, 3, 1, 1), (True, 4, 2, 3, 1))  # axes of size 1


@check(needs="steps")
def steps_equal_sequence(subject: Subject) -> None:
    """The single-step form, step after step, is the multi-step form: spikes, all gradients.

    Inputs of ten times the usual size are among them, as a bound may cut them in one form alone.
    """
    node = subject.node()
    usual = ((False, 9, 3), (True, 9, 40), (True, 131, 2), (True, 5, 2, 4), (True, 5, 2, 3, 2), *ONES)
    for size, warm, *shape in (*((1, *case) for case in usual), (10, False, 9, 40)):
        x = subject.x(*shape) * size
        state = subject.state(node, x) if warm else None
        step = outcome(node, stepwise, x, state)
        sequence = outcome(node, whole, x, state)
        what = f"multi-step against single-step, {'given' if state else 'initial'} state"
        assert_same(subject, sequence, step, what, x=x, state=state)


@check(needs="steps")
def ties_fire_alike(subject: Subject) -> None:
    """Inputs right at the threshold fire alike in single steps and in a sequence.

    Of two neighbouring numbers one fires and the other does not. Rounding may move that edge by
    one number, either way; ">" in one form and ">=" in the other move most of them one way.
    """
    node = subject.node()
    for length in (1, 3):
        x = subject.x(length, 16)
        _assert_ties_alike(node, x, subject.state(node, x))


@torch.no_grad()
def _assert_ties_alike(node: nn.Module, x: Tensor, state: State) -> None:
    """The last input of x brings each potential to the threshold."""

    def last(form: How, step: Tensor) -> Tensor:
        return form(node, torch.cat((x[:-1], step)), state, None)[0][-1:] > 0

    low, high = torch.full_like(x[:1], -2 * GAINS[-1]), torch.full_like(x[:1], 2 * GAINS[-1])
    live = ~last(whole, low) & last(whole, high)
    for _ in range(80):
        middle = (low + high) / 2
        fired = last(whole, middle)
        low, high = torch.where(fired, low, middle), torch.where(fired, middle, high)
    for fires, edge in ((True, high), (False, low)):
        moved = live & (last(whole, edge) == fires) & (last(stepwise, edge) != fires)
        count, edges = len(set(edge[moved].tolist())), len(set(edge[live].tolist()))
        assert 2 * count <= edges, (
            f"right at the threshold a sequence of {('one step', 'three steps')[len(x) > 1]} "
            f"{'fires' if fires else 'is silent'}, and a single step "
            f"does the opposite, for {count} of {edges} inputs: '>' in one and '>=' in the other? "
            f"x {list(x.shape)}, first at {moved.nonzero()[0].tolist()}, x = {edge[moved][0].item()!r}"
        )


@check(needs="carries_state")
def pieces_equal_whole(subject: Subject) -> None:
    """Pieces, and single steps between, the state carried over, are the whole: all gradients."""
    node = subject.node()
    for shape in ((7, 3), (12, 3), (7, 2, 4), (7, 2, 1), (7, 2, 3, 2)):
        x = subject.x(*shape)
        for state in (None, subject.state(node, x)):
            want = outcome(node, whole, x, state)
            for way in splits(len(x)):
                got = outcome(node, pieces(*way), x, state)
                assert_same(subject, got, want, f"pieces of {way} against the whole", x=x, state=state)
            if subject.traits.steps:
                way = (3, 2, len(x) - 5)
                got = outcome(node, pieces(*way, by=(whole, stepwise)), x, state)
                what = f"pieces of {way}, the second in single steps, against the whole"
                assert_same(subject, got, want, what, x=x, state=state)


@check(once=True)
def rows_do_not_mix(subject: Subject) -> None:
    """Each row of the batch, and each place after the channels, is computed as if it were alone."""
    node = subject.node()
    x = subject.x(7, 4)
    state = subject.state(node, x)
    spikes, final = whole(node, x, state)
    for b in (0, 3):
        row = {name: value[b : b + 1] for name, value in state.items()}
        alone, last = whole(node, x[:, b : b + 1], row)
        assert_equal(alone, spikes[:, b : b + 1], f"row {b} alone against row {b} of the batch")
        for name in final:
            assert_close(last[name], final[name][b : b + 1], f"state '{name}' of row {b}")
    for places in ((1,), (4,), (64,), (70,), (2, 3), (2, 1, 3), (33, 33)):
        wide = subject.x(7, 2, *places)  # [T, B, C, *places]
        want, _ = whole(node, wide)
        folded, _ = whole(node, wide.movedim(subject.axis, -1).flatten(1, -2))  # [T, B * places, C]
        got = torch.unflatten(folded, 1, (2, *places)).movedim(-1, subject.axis)
        assert_equal(got, want, f"places {list(places)} of x {list(wide.shape)} moved into the batch")


@check()
def channels_on_another_axis(subject: Subject) -> None:
    """Channels on another axis, by the node's `axis`, are those of axis 2, masked or not."""
    node = subject.node()
    if not hasattr(node, "axis"):
        return
    way = (2, 2, 3) if subject.traits.carries_state else (subject.steps(7),)
    for places, axes in (((3,), (-1, 3)), ((2, 3), (-1, 3))):
        x = subject.x(7, 2, *places).movedim(subject.axis, 2)
        for mask in (None, subject.gaps(len(x), 2)) if subject.traits.takes_mask else (None,):
            want = outcome(node, _with_channels_on(2, pieces(*way)), x, None, mask)
            for axis in axes:
                for form in forms(subject):
                    got = outcome(node, _with_channels_on(axis, pieces(*way, by=(whole, form))), x, None, mask)
                    what = f"{form.__name__}, channels on axis {axis} against axis 2"
                    assert_same(subject, got, want, what, x=x, mask=mask)


def _with_channels_on(axis: int, how: How) -> How:
    """The node on x [T, B, C, ...] with C moved to this axis, and its spikes with C moved back."""

    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        before = node.axis
        node.axis = axis  # type: ignore[assignment]
        spikes, _ = how(node, x.movedim(2, axis), state, mask)
        node.axis = before
        return spikes.movedim(axis, 2), {}

    return run


@check()
def backends_agree(subject: Subject) -> None:
    """The backend under test computes what "torch" does: long, wide, masked; all gradients."""
    node, other = subject.node(), subject.node()
    others = set(getattr(node, "kernels", {}) or getattr(node, "supported_backends", ())) - {"auto", "torch"}
    if not others or getattr(node, "backend", "torch") == "torch":
        return
    other.backend = "torch"  # type: ignore[assignment]
    for length, batch in ((7, 3), (300, 2), (3, 260)) if subject.traits.any_length else ((7, 3), (7, 260)):
        x = subject.x(length, batch)
        mask = (torch.arange(length, device=x.device)[:, None] + torch.arange(batch, device=x.device)) % 4 != 1
        for state in (None, subject.state(node, x)) if subject.traits.carries_state else (None,):
            for valid in (None, mask) if subject.traits.takes_mask else (None,):
                got, want = outcome(node, whole, x, state, valid), outcome(other, whole, x, state, valid)
                what = f'{length} steps of {batch} rows against backend "torch"{"" if valid is None else ", masked"}'
                assert_same(subject, got, want, what, x=x, state=state, mask=valid)


@check()
def matches_reference(subject: Subject) -> None:
    """The node is the reference that is handed in: spikes, final state, all gradients."""
    if subject.reference is None:
        return
    reference = subject.reference
    node = subject.node()
    for batch, warm in ((3, False), (40, True)):
        x = subject.x(11, batch)
        state = subject.state(node, x) if warm else None
        got = outcome(node, whole, x, state)
        want = outcome(node, lambda n, y, s, _: reference(n, y, s), x, state)
        assert_same(subject, got, want, "node against reference", x=x, state=state)
