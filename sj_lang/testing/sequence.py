"""Checks: one step at a time, in pieces, row by row, it is the same sequence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sj_lang.testing.check import check
from sj_lang.testing.compare import (
    assert_close,
    assert_equal,
    assert_same,
    batches_of,
    outcome,
    pieces,
    rows_with_masked_steps_deleted,
    splits,
    stepwise,
    whole,
)
from sj_lang.testing.subject import GAINS, Subject


@check(needs="steps")
def steps_equal_sequence(subject: Subject) -> None:
    """The single-step form, step after step, is the multi-step form: spikes, potentials, all gradients."""
    node = subject.node()
    for warm, *shape in ((False, 9, 3), (True, 9, 40), (True, 131, 2), (True, 5, 2, 3, 2)):
        x = subject.x(*shape)
        state = subject.state(node, x) if warm else None
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
def large_batches(subject: Subject) -> None:
    """1,300 neurons in one call are those of small batches: spikes, states, gradients; parameters' add up."""
    node = subject.node()
    rows = max(2, -(-1300 // subject.channels))
    few = max(1, rows // 10)
    x = subject.x(3, rows)
    state = subject.state(node, x)
    for start in (None, state) if state else (None,):
        got = outcome(node, whole, x, start)
        want = outcome(node, batches_of(few), x, start)
        assert_same(subject, got, want, f"a batch of {rows} against batches of {few}", x=x, state=start)


@check(once=True)
def channels_are_alike(subject: Subject) -> None:
    """Each of 37 channels fires; equal ones do the same, if channels do not mix."""
    wide = replace(subject, channels=37)
    try:
        node = wide.node()
    except ValueError:
        return  # it takes no such number
    if getattr(node, "channels", 37) != 37:
        return  # `make` builds one width
    fires = torch.zeros(37, dtype=torch.bool, device=subject.device)
    for size in (1.0, *GAINS):
        with torch.no_grad():
            fires |= (whole(node, wide.x(9, 8) * size)[0] != 0).transpose(0, 2).flatten(1).any(1)
    silent = (~fires).nonzero().flatten().tolist()
    assert not silent, f"of 37 channels those numbered {silent} never fire, whatever the input"
    x = wide.x(7, 3)
    if subject.traits.steps:
        state = wide.state(node, x)
        got, want = outcome(node, whole, x, state), outcome(node, stepwise, x, state)
        assert_same(wide, got, want, "multi-step against single-step, 37 channels", x=x, state=state)
    of_channels = all(37 in parameter.shape or parameter.numel() == 1 for parameter in node.parameters())
    if _channels_mix(node, x) or not of_channels:
        return
    with torch.no_grad():
        for tensor in (*node.parameters(), *node.buffers()):
            for axis in (axis for axis, size in enumerate(tensor.shape) if size == 37):
                tensor.copy_(tensor.narrow(axis, 0, 1).expand(tensor.shape).clone())
    leaf = x[:, :, :1].repeat(1, 1, 37).requires_grad_()
    spikes, _ = whole(node, leaf)
    (gradient,) = torch.autograd.grad(spikes.sum(), leaf)
    for what, values in (("spikes", spikes.detach()), ("gradient of x", gradient)):
        first = values[:, :, :1].expand(values.shape)
        assert_close(values, first, f"{what} of 37 channels of equal parameters and inputs, against the first channel")


def _channels_mix(node: nn.Module, x: Tensor) -> bool:
    """Whether an input reaches the output of another channel, as a value or a gradient."""
    leaf = x.detach().clone().requires_grad_()
    spikes, _ = whole(node, leaf)
    (gradient,) = torch.autograd.grad(spikes[:, :, ::2].sum(), leaf)
    other = x.clone()
    other[:, :, 1::2] = 3.0 - 5.0 * x[:, :, 1::2]
    with torch.no_grad():
        moved = whole(node, other)[0][:, :, ::2]
    return bool((gradient[:, :, 1::2] != 0).any()) or not torch.equal(moved, spikes[:, :, ::2])


@check(needs="any_length")
def long_sequences(subject: Subject) -> None:
    """300 steps are pieces of 50, and shorter sequences with masked steps between: spikes, states, all gradients."""
    node = subject.node()
    x = subject.x(300, 2)
    state = subject.state(node, x)
    if subject.traits.carries_state:
        got, want = outcome(node, whole, x, state), outcome(node, pieces(*(50,) * 6), x, state)
        assert_same(subject, got, want, "300 steps against pieces of 50", x=x, state=state)
    if subject.traits.takes_mask:
        every = (3,) if subject.traits.carries_state else (2, 3, 6)
        for gap in every:
            mask = torch.arange(300, device=x.device)[:, None] % gap == torch.arange(2, device=x.device)
            got = outcome(node, whole, x, state, mask)
            want = outcome(node, rows_with_masked_steps_deleted, x, state, mask)
            what = f"{300 // gap} valid steps among 300, against them alone"
            assert_same(subject, got, want, what, x=x, state=state, mask=mask)


@check()
def backends_agree(subject: Subject) -> None:
    """What the backend under test computes, "torch" does too: long and wide, masked or not; all gradients."""
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
