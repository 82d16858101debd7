"""Checks: one step at a time, in pieces, row by row, it is the same sequence."""

from __future__ import annotations

import torch

from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_close, assert_equal, assert_same, outcome, pieces, splits, stepwise, whole
from sj_lang.testing.subject import Subject


@check(needs="steps")
def steps_equal_sequence(subject: Subject) -> None:
    """The single-step form, step after step, is the multi-step form: spikes, potentials, all gradients."""
    node = subject.node()
    for given, *shape in ((False, 9, 3), (True, 9, 40), (True, 131, 2), (True, 5, 2, 3, 2)):
        x = subject.x(*shape)
        state = subject.state(node, x) if given else None
        step = outcome(node, stepwise, x, state)
        sequence = outcome(node, whole, x, state)
        start = "given" if state else "initial"
        layout = f"{'[T, B, C, H, W], ' if x.dim() > 3 else ''}{start} state"
        assert_same(subject, sequence, step, f"multi-step against single-step, {layout}", x=x, state=state)
    if subject.length is None:
        _potentials(subject)


def _potentials(subject: Subject) -> None:
    """After each step the states agree too, so an error that fires no spike is seen."""
    node, x, state = subject.node(), subject.x(9), None
    with torch.no_grad():
        for t in range(1, len(x) + 1):
            _, state = stepwise(node, x[t - 1 : t], state)
            _, want = whole(node, x[:t])
            for name in want:
                assert_close(want[name], state[name], f"state '{name}' after {t} steps, multi-step against single-step")


@check(needs="carries_state")
def pieces_equal_whole(subject: Subject) -> None:
    """A sequence cut anywhere, with the state carried over, is the whole: spikes, final state, all gradients."""
    node = subject.node()
    for shape in ((7, 3), (12, 3), (7, 2, 3, 2)):
        x = subject.x(*shape)
        layout = " of [T, B, C, H, W]" if x.dim() > 3 else ""
        for state in (None, subject.state(node, x)):
            want = outcome(node, whole, x, state)
            for way in splits(len(x)):
                got = outcome(node, pieces(*way), x, state)
                assert_same(subject, got, want, f"pieces of {way} against the whole{layout}", x=x, state=state)


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
    wide = subject.x(7, 2, 2, 3)  # [T, B, C, H, W]
    want, _ = whole(node, wide)
    folded, _ = whole(node, wide.permute(0, 1, 3, 4, 2).flatten(1, 3))  # [T, B*H*W, C]
    got = folded.reshape(len(wide), 2, 2, 3, -1).permute(0, 1, 4, 2, 3)
    assert_equal(got, want, "places [H, W] of [T, B, C, H, W] moved into the batch")


@check()
def matches_reference(subject: Subject) -> None:
    """The node is its reference: spikes, final state, all gradients. Applies where a reference is handed in."""
    if subject.reference is None:
        return
    reference = subject.reference
    node = subject.node()
    for batch, given in ((3, False), (40, True)):
        x = subject.x(11, batch)
        state = subject.state(node, x) if given else None
        got = outcome(node, whole, x, state)
        want = outcome(node, lambda n, y, s, _: reference(n, y, s), x, state)
        assert_same(subject, got, want, "node against reference", x=x, state=state)
