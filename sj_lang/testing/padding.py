"""Checks: a mask removes steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sj_lang.testing.check import check
from sj_lang.testing.compare import (
    assert_close,
    assert_equal,
    assert_same,
    outcome,
    pieces,
    rows_with_masked_steps_deleted,
    stepwise,
    whole,
)
from sj_lang.testing.subject import Subject

JUNK = {"right": [1e3, math.nan], "left": [math.inf], "holes": [-1e3, math.nan]}  # others: NaN


def masks(length: int, batch: int) -> dict[str, Tensor]:
    """Padding of each kind, [T, B], True = valid; the rows differ in how much."""
    step = torch.arange(length)[:, None]
    keep = torch.tensor([length - (3 * b + 2) % length for b in range(batch)])
    middle = (step == 0) | (step >= length - keep + 1)
    holes = (step * 3 + torch.arange(batch)) % 4 != 1
    return {
        "right": step < keep,
        "left": step >= length - keep,
        "middle": middle,
        "holes": holes,
        "none": torch.ones(length, batch, dtype=torch.bool),
    }


@check(needs="takes_mask")
def padding_is_removal(subject: Subject) -> None:
    """Masked steps, anywhere, junk or NaN, are removed: outputs, final state, all gradients."""
    node = subject.node()
    for where, mask in masks(9, 4).items():
        for filling in JUNK.get(where, [float("nan")]):
            mask = mask.to(subject.device)
            x = subject.x(9, 4).masked_fill(~mask[..., None], filling)
            state = subject.state(node, x) if math.isnan(filling) else None
            what = f"padding {where}, filled with {filling}"
            got = outcome(node, whole, x, state, mask)
            want = outcome(node, rows_with_masked_steps_deleted, x, state, mask)
            _assert_silent(got.spikes, mask, what)
            for name, gradient in got.gradients.items():
                assert bool(gradient.isfinite().all()), f"{what}: gradient of {name} is not finite"
            assert_same(subject, got, want, what, x=x, state=state, mask=mask)
    for places, where in (((4,), "holes"), ((4,), "right"), ((3, 2), "holes")):
        mask = masks(5, 2)[where].to(subject.device)
        x = subject.x(5, 2, *places).masked_fill(~mask.view(5, 2, 1, *(1,) * len(places)), math.nan)
        state = subject.state(node, x)
        got = outcome(node, whole, x, state, mask)
        want = outcome(node, rows_with_masked_steps_deleted, x, state, mask)
        assert_same(subject, got, want, f"padding {where}, trailing axes", x=x, state=state, mask=mask)


@check(needs="takes_mask")
def mask_in_steps_and_pieces(subject: Subject) -> None:
    """A mask means the same in single steps and in pieces as in the whole."""
    node = subject.node()
    for where, mask in masks(9, 4).items():
        mask = mask.to(subject.device)
        x = subject.x(9, 4).masked_fill(~mask[..., None], float("nan"))
        want = outcome(node, whole, x, None, mask)
        if subject.traits.steps:
            got = outcome(node, stepwise, x, None, mask)
            assert_same(subject, got, want, f"single steps, padding {where}", x=x, mask=mask)
        for way in ((2, 3, 4), (1, 1, 1, 5, 1)) if subject.traits.carries_state else ():
            got = outcome(node, pieces(*way), x, None, mask)
            assert_same(subject, got, want, f"pieces of {way}, padding {where}", x=x, mask=mask)
    for places in ((4,), (3, 2)) if subject.traits.steps else ():
        x, mask = subject.x(5, 2, *places), masks(5, 2)["holes"].to(subject.device)
        state = subject.state(node, x)
        got, want = (outcome(node, form, x, state, mask) for form in (stepwise, whole))
        assert_same(subject, got, want, "single steps, padding holes, trailing axes", x=x, state=state, mask=mask)


@check(needs="takes_mask")
def no_valid_step(subject: Subject) -> None:
    """A row without a valid step is silent and keeps its state, as is a step with nothing valid."""
    node = subject.node()
    x = subject.x(5, 3)
    mask = torch.ones(5, 3, dtype=torch.bool, device=subject.device)
    mask[:, 1] = False
    for rows in (mask, torch.zeros_like(mask)):
        state = subject.state(node, x)
        junk = x.masked_fill(~rows[..., None], float("nan"))
        spikes, final = whole(node, junk, state, rows)
        _assert_silent(spikes, rows, "a row without a valid step")
        empty = ~rows.any(0)
        for name in state:
            assert_equal(final[name][empty], state[name][empty], f"state '{name}' of a row without a valid step")
        if state:
            got = outcome(node, whole, junk, state, rows)
            want = outcome(node, rows_with_masked_steps_deleted, junk, state, rows)
            what = "a row without a valid step"
            assert_same(subject, got, want, what, x=junk, state=state, mask=rows)
        if subject.traits.steps:
            spikes, final = stepwise(node, junk, state, rows)
            _assert_silent(spikes, rows, "a step with nothing valid")
            for name in state:
                assert_close(final[name][empty], state[name][empty], f"state '{name}' after masked single steps")


def _assert_silent(spikes: Tensor, mask: Tensor, what: str) -> None:
    masked = spikes[~mask]
    assert not bool((masked != 0).any()), f"{what}: {int((masked != 0).sum())} outputs at masked steps are not 0"
