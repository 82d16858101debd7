"""Checks: a node is the same at any length, in a batch of any size, with any number of channels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import (
    Outcome,
    assert_close,
    assert_same,
    batches_of,
    forms,
    outcome,
    pieces,
    rows_with_masked_steps_deleted,
    stepwise,
    whole,
)
from sj_lang.testing.subject import GAINS, Subject

LENGTHS = (*range(1, 10), *(2**n + d for n in range(4, 9) for d in (-1, 0, 1)), 48, 96, 100, 384, 512, 768, 1000, 1024)
TILES = (16, 64, 100, 128, 256, 512)  # lengths, with gradients
WIDTHS = (1, 37, 64, 129, 96, 256, 770, 4100)


@check()
def large_batches(subject: Subject) -> None:
    """9,000 neurons, or 256 rows, are those of small batches and single steps: all gradients."""
    node = subject.node()
    rows = max(2, -(-9000 // subject.channels))
    few = min(100, max(1, rows // 10))
    x = subject.x(3, rows)
    state = subject.state(node, x)
    for start in (None, state) if state else (None,):
        got = outcome(node, whole, x, start)
        want = outcome(node, batches_of(few), x, start)
        assert_same(subject, got, want, f"a batch of {rows} against batches of {few}", x=x, state=start)
        if subject.traits.steps:
            steps = outcome(node, stepwise, x, start)
            assert_same(
                subject, steps, got, f"single steps of a batch of {rows} against the sequence", x=x, state=start
            )
    x = subject.x(5, 256)
    state, step = subject.state(node, x), torch.arange(5, device=x.device)[:, None]
    ends = step < 1 + torch.arange(256, device=x.device) % 5
    for mask in (None, ends, ends | (step == 4)) if subject.traits.takes_mask else (None,):
        got, want = (outcome(node, form, x, state, mask) for form in (whole, batches_of(30)))
        what = f"a batch of 256 against batches of 30{'' if mask is None else ', masked'}"
        assert_same(subject, got, want, what, x=x, state=state, mask=mask)
        if subject.traits.steps and mask is not None:
            steps, what = outcome(node, stepwise, x, state, mask), "single steps of a batch of 256, masked"
            assert_same(subject, steps, got, f"{what}, against the sequence", x=x, state=state, mask=mask)


@check(once=True)
def channels_are_alike(subject: Subject) -> None:
    """Of 1 to 4,100 channels, equal ones do the same. Each fires if they share anything."""
    for width in WIDTHS:
        try:
            wide = replace(subject, channels=width)
            node = wide.node()
        except ValueError:
            continue  # it takes no such number
        if getattr(node, "channels", width) == width:  # else `make` builds one width
            _assert_alike(wide, node)


def _assert_alike(wide: Subject, node: nn.Module) -> None:
    width, x = wide.channels, wide.x(7, 3)
    if wide.traits.steps:
        state = wide.state(node, x)
        got, want = outcome(node, whole, x, state), outcome(node, stepwise, x, state)
        assert_same(wide, got, want, f"multi-step against single-step, {width} channels", x=x, state=state)
    rates = torch.zeros(width, dtype=x.dtype, device=x.device)
    for size in (1.0, *GAINS):
        with torch.no_grad():
            rates += (
                (whole(node, wide.x(33, 8 if width < 1000 else 2) * size)[0] != 0)
                .to(x.dtype)
                .transpose(0, 2)
                .flatten(1)
                .mean(1)
            )
    of_channels = all(width in parameter.shape or parameter.numel() == 1 for parameter in node.parameters())
    if _channels_mix(node, x) or not of_channels:
        silent = (rates == 0).nonzero().flatten().tolist()
        assert 50 * len(silent) < width, f"of {width} channels {len(silent)} never fire: those numbered {silent[:40]}"
        return
    best = int((rates / (1 + len(GAINS)) - 0.5).abs().argmin())
    learned: dict[str, tuple[Tensor, int]] = {}  # with the axis of the channels
    with torch.no_grad():
        for name, tensor in (*node.named_parameters(), *node.named_buffers()):
            for axis in (axis for axis, size in enumerate(tensor.shape) if size == width):
                tensor.copy_(tensor.narrow(axis, best, 1).expand(tensor.shape).clone())
                if tensor.requires_grad and tensor.shape.count(width) == 1:
                    learned[f"gradient of {name}"] = tensor, axis
    for size in (1.0, 4.0):
        leaf = (size * wide.x(9, 8)[:, :, best, None]).repeat(1, 1, width).requires_grad_()
        spikes, _ = whole(node, leaf)
        into = {"gradient of x": (leaf, 2), **learned}
        gradients = torch.autograd.grad(spikes.sum(), [tensor for tensor, _ in into.values()], materialize_grads=True)
        by_channel = {what: (value, axis) for (what, (_, axis)), value in zip(into.items(), gradients, strict=True)}
        for what, (values, axis) in ({"spikes": (spikes.detach(), 2)} | by_channel).items():
            one = values.narrow(axis, best, 1).expand(values.shape)
            of = f"{what} of {width} channels of equal parameters and inputs, from number "
            first = ((values != one).movedim(axis, 0).reshape(width, -1).any(1)).nonzero().flatten().tolist()[:1]
            assert_close(values, one, f"{of}{first} on, against number {best}")


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


@check(needs="any_length", once=True)
def every_length(subject: Subject) -> None:
    """1 to 1,024 steps in one call end as single steps do, or as under a mask."""
    node, traits, x = subject.node(), subject.traits, subject.x(max(LENGTHS) + 3, 2)
    start = subject.state(node, x) or None
    state, form, spikes, states = start, forms(subject)[-1], [], []
    with torch.no_grad():
        for t in range(len(x)) if traits.carries_state else ():
            spike, state = form(node, x[t : t + 1], state, None)
            spikes.append(spike)
            states.append(state)
        for length in LENGTHS if traits.carries_state or traits.takes_mask else ():
            if traits.carries_state:
                want = Outcome(torch.cat(spikes[:length]), states[length - 1], {})
                what = "one call against calls of one step"
            else:
                mask = torch.arange(length + 3, device=x.device)[:, None].expand(-1, 2) < length
                want = Outcome(whole(node, x[: length + 3], None, mask)[0][:length], {}, {})
                what = "the sequence against a longer one whose last 3 steps are masked"
            got = Outcome(*whole(node, x[:length], start), {})
            assert_same(subject, got, want, f"{length} steps: {what}", x=x[:length], state=start)
    for length in TILES if traits.carries_state or traits.takes_mask else ():
        got = outcome(node, whole, x[:length], start)
        if traits.carries_state:
            want = outcome(node, pieces(length - 7, 7), x[:length], start)
            what = f"one call against pieces of {length - 7} and 7"
        else:
            mask = torch.arange(length + 3, device=x.device)[:, None].expand(-1, 2) < length
            want = outcome(node, _without_end, x[: length + 3], None, mask)
            want.gradients["x"] = want.gradients["x"][:length]
            what = "the sequence against a longer one whose last 3 steps are masked"
        assert_same(subject, got, want, f"{length} steps: {what}", x=x[:length], state=start)


def _without_end(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
    """The multi-step form without the last 3 steps, which the mask leaves out."""
    spikes, final = whole(node, x, state, mask)
    return spikes[:-3], final


@check(needs="any_length")
def long_sequences(subject: Subject) -> None:
    """1,025 steps are pieces of 205, and shorter ones with masked steps between: all gradients."""
    node, length = subject.node(), 1025
    x = subject.x(length, 2)
    state = subject.state(node, x)
    if subject.traits.carries_state:
        piece = length // 5
        got, want = outcome(node, whole, x, state), outcome(node, pieces(*(piece,) * 5), x, state)
        assert_same(subject, got, want, f"{length} steps against pieces of {piece}", x=x, state=state)
    else:
        _assert_steps_reach_the_next(subject, node)
    if subject.traits.takes_mask:
        x = x[:325] if subject.traits.carries_state else x
        length = len(x)
        for gap in (5,) if subject.traits.carries_state else (2, 5, 20):
            mask = torch.arange(length, device=x.device)[:, None] % gap == torch.arange(2, device=x.device)
            got = outcome(node, whole, x, state, mask)
            want = outcome(node, rows_with_masked_steps_deleted, x, state, mask)
            what = f"{length // gap} valid steps among {length}, against them alone"
            assert_same(subject, got, want, what, x=x, state=state, mask=mask)


def _assert_steps_reach_the_next(subject: Subject, node: nn.Module) -> None:
    """Without a state there are no pieces, but each step tells its neighbours the same."""

    def reached(x: Tensor, t: int) -> list[bool]:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(whole(node, leaf)[0][t].sum(), leaf)
        return [bool(gradient[s].any()) for s in (t - 1, t, t + 1)]

    want = reached(subject.x(9, 16), 4)
    for t in (2**n + d for n in range(5, 11) for d in (-1, 0)):
        got = reached(subject.x(1026, 16), t)
        assert got == want, (
            f"step {t} of 1,026 has a gradient from the step before, itself, the step after: {got}; in 9 steps {want}"
        )
