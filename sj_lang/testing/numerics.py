"""Checks: exact gradients, precisions, sizes, memory layouts, NaN."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck

from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import (
    How,
    Outcome,
    assert_close,
    assert_equal,
    assert_same,
    assert_spikes,
    forms,
    outcome,
    whole,
)
from sj_lang.testing.subject import Subject


@check(once=True)
def spikes_are_levels(subject: Subject) -> None:
    """Spikes are whole numbers from 0 to levels, or in `spike_range`, at any size of input."""
    node = subject.node()
    levels = cast(int, node.levels)
    lowest, highest = cast(tuple[int, int], getattr(node, "spike_range", (0, levels)))
    largest = max(-lowest, highest)
    assert levels == largest, f"levels is {levels}, it must be {largest} for spikes of {lowest} to {highest}"
    for size in (0.1, 1.0, 100.0):
        with torch.no_grad():
            spikes, _ = whole(node, subject.x(9, 8) * size)
        assert bool((spikes == spikes.round()).all()), f"inputs times {size}: spikes are not integers"
        low, high = float(spikes.min()), float(spikes.max())
        assert lowest <= low, f"inputs times {size}: a spike of {low}"
        assert high <= highest, f"inputs times {size}: a spike of {high}, levels is {levels}"


@check(once=True)
def gradients_are_exact(subject: Subject) -> None:
    """With smooth firing, every gradient equals finite differences in float64, in both modes."""
    exact = subject.at(torch.float64)
    for form in forms(subject):
        _assert_exact(subject, exact, form, 4)
    if subject.traits.any_length and not subject.traits.carries_state:
        _assert_exact(subject, exact, whole, 150)  # no pieces to compare with: see long_sequences


def _assert_exact(subject: Subject, exact: Subject, form: How, length: int) -> None:
    node = exact.node()
    subject.smoothen(node)
    x = exact.x(length, 1)
    state = exact.state(node, x)
    leaves = {"x": x, **{f"state '{name}'": value for name, value in state.items()}}
    for leaf in leaves.values():
        leaf.requires_grad_()
    leaves |= {f"parameter '{name}'": value for name, value in node.named_parameters() if value.requires_grad}

    def outputs(*_: Tensor) -> tuple[Tensor, ...]:
        spikes, final = form(node, x, state, None)
        return (spikes, *(value for value in final.values() if value.is_floating_point()))

    unused = [name for name, p in node.named_parameters() if p.requires_grad and not _reaches(outputs(), p)]
    assert not unused, f"{form.__name__}: no gradient for {', '.join(unused)}"
    try:
        gradcheck(outputs, list(leaves.values()), eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    except GradcheckError as error:
        spikes, final = form(node, x, state, None)
        results = {"the spikes": spikes, **{f"the final state '{name}'": value for name, value in final.items()}}
        names = [name for name, value in results.items() if value.requires_grad]  # its count
        raise AssertionError(f"{form.__name__}: {_mismatch(str(error), names, list(leaves))}{_cut(node)}") from error


def _mismatch(text: str, outputs: list[str], inputs: list[str]) -> str:
    """What gradcheck found, with names for its numbers."""
    number = r":(?:tensor\()?([^\s,)]+)"
    match = re.search(
        rf"output (\d+) with respect to input (\d+),\s*numerical{number}.*?analytical{number}", text, re.DOTALL
    )
    if match is None:
        return text.partition("\n\n")[0]
    of, by = outputs[int(match[1])], inputs[int(match[2])]
    numerical, analytical = map(float, match.groups()[2:])
    return f"along one direction, the gradient of {of} with respect to {by} is {analytical:.7g}, not {numerical:.7g}"


def _cut(node: nn.Module) -> str:
    """A remark if the node says that it leaves a gradient out."""
    flags = [{**vars(type(part)), **vars(part)} for part in node.modules()]
    cut = sorted({name for each in flags for name, value in each.items() if "detach" in name and value is True})
    if not cut:
        return ""
    return (
        f"; {', '.join(cut)} is set: a gradient that is left out on purpose (a detached reset) differs too: "
        "skip this check with that reason"
    )


def _reaches(outputs: tuple[Tensor, ...], leaf: Tensor) -> bool:
    sums = [value.sum() for value in outputs if value.requires_grad]
    return torch.autograd.grad(torch.stack(sums).sum(), leaf, allow_unused=True)[0] is not None


@check(once=True)
def half_precision(subject: Subject) -> None:
    """9 and 300 steps in bfloat16 and float16, and autocast: spikes as in float32, its states."""
    single = subject.at(torch.float32)
    node = single.node()
    for dtype in (torch.bfloat16, torch.float16):
        # many channels, of which few flip a spike
        shapes = ((9, 8), (9, 300), (9, 300, 1), (9, 100, 3), (9, 300, 1, 1), (9, 100, 3, 1))
        for form, *shape in ((whole, 300, 16), *((form, *shape) for form in forms(subject) for shape in shapes)):
            x = single.x(*shape).to(dtype)
            got, want = outcome(node, form, x), outcome(node, form, x.float())
            what = f"{form.__name__}, {dtype} input against float32, x {list(x.shape)}"
            assert got.spikes.dtype == dtype, f"{what}: spikes are {got.spikes.dtype}"
            _assert_float32(got.state, what)
            if assert_spikes(single, got.spikes.float(), want.spikes, what, x=x.float()):
                continue
            for name, gradient in got.gradients.items():
                assert_close(gradient.float(), want.gradients[name], f"{what}: gradient of {name}", close=2e-2)
    x = single.x(9, 8)
    state = single.state(node, x)
    masks = (None, single.gaps(len(x), 8)) if single.traits.takes_mask else (None,)
    for form, valid in product(forms(subject), masks):
        want = outcome(node, form, x, state, valid)
        what = f"{form.__name__}, {'' if valid is None else 'masked, '}"
        rounded, case = x.bfloat16(), f"{what}given state, torch.bfloat16 input against float32"
        narrow, wide = (outcome(node, form, each, state, valid) for each in (rounded, rounded.float()))
        # gradients are compared above
        narrow = replace(narrow, spikes=narrow.spikes.float(), gradients={})
        assert_same(single, narrow, wide, case, x=rounded.float(), state=state, mask=valid)
        got = outcome(node, _under_autocast(form), x, state, valid)
        _assert_float32(got.state, f"{what}under autocast")
        assert_same(single, got, want, f"{what}under autocast", x=x, state=state, mask=valid)


def _under_autocast(form: How) -> How:
    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return form(node, x, state, mask)

    return run


def _assert_float32(state: State, what: str) -> None:
    for name, value in state.items():
        assert value.dtype == torch.float32, f"{what}: state '{name}' is {value.dtype}"


@check()
def large_inputs(subject: Subject) -> None:
    """Inputs of 0 to 10,000 times the usual size: spikes, states and all gradients are finite."""
    node = subject.node()
    for size in (0.0, 10.0, 100.0, 1e3, 1e4):
        for form, *shape in (*((form, 9, 8) for form in forms(subject)), (whole, 300, 2)):
            x = subject.x(*shape) * size
            what = f"{form.__name__}, inputs of {size:g} times the usual size, x {list(x.shape)}"
            _assert_finite(outcome(node, form, x), what)


def _assert_finite(run: Outcome, what: str) -> None:
    parts = {"spikes": run.spikes} | {f"final state '{name}'": value for name, value in run.state.items()}
    for name, value in (parts | {f"gradient of {name}": value for name, value in run.gradients.items()}).items():
        bad = int((~value.isfinite()).sum())
        assert not bad, f"{what}: {bad} of {value.numel()} numbers of the {name} are not finite"


@check()
def odd_sizes(subject: Subject) -> None:
    """T = 1, one row, no rows, odd T, trailing axes: shapes, finite gradients; T = 1 is a start."""
    node = subject.node()
    longer = subject.x(7, 3)
    if subject.traits.any_length and subject.traits.causal:
        want = whole(node, longer)[0][:1]
        assert_equal(whole(node, longer[:1])[0], want, "T = 1 against the first step of a longer sequence")
    for shape in ((1, 3), (2, 1), (33, 3), (5, 0), (1, 0), (5, 2, 3), (5, 2, 3, 2), (3, 2, 2, 1, 3)):
        x = subject.x(*shape)
        state = subject.state(node, x)
        got = outcome(node, whole, x, state)
        what = f"x of shape {list(x.shape)}"
        assert got.spikes.shape == x.shape, f"{what}: spikes of shape {list(got.spikes.shape)}"
        for name, value in got.state.items():
            assert value.shape == state[name].shape, f"{what}: state '{name}' of shape {list(value.shape)}"
        _assert_finite(got, what)


Layout: TypeAlias = Callable[[Tensor], Tensor]
LAYOUTS: dict[str, Layout] = {
    "batch first in memory": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels first in memory": lambda x: (
        x.movedim(min(2, x.dim() - 1), 0).contiguous().movedim(0, min(2, x.dim() - 1))
    ),
    "reversed in memory": lambda x: (
        x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    ),
    "every second entry": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "at an offset": lambda x: torch.cat([x[:1], x])[1:],
}


@check()
def memory_layouts(subject: Subject) -> None:
    """Inputs, states and masks, permuted, strided, broadcast, count as their contiguous copies."""
    node, x = subject.node(), subject.x(7, 3)
    tried: list[tuple[Tensor, Tensor | None]] = [(x, None), (subject.x(7, 3, 4), None), (subject.x(7, 3, 2, 3), None)]
    if subject.traits.takes_mask:
        ends = torch.arange(7, device=x.device)[:, None] < torch.tensor([7, 2, 5], device=x.device)
        tried += [(x, subject.gaps(7, 3)), (tried[1][0], ends)]
    for x, mask in tried:
        state = subject.state(node, x)
        for form in forms(subject):
            want = outcome(node, form, x, state, mask)
            for name, layout in LAYOUTS.items():
                got = outcome(node, _laid_out(form, layout), x, state, mask)
                what = f"{form.__name__}, x, state{'' if mask is None else ' and mask'} {name}"
                assert_same(subject, got, want, what, x=x, state=state, mask=mask)
    for _, mask in tried[2:4]:
        row, valid = subject.x(7, 1), None if mask is None else mask[:, :1]
        spikes, _ = whole(node, row.expand(-1, 3, -1), None, None if valid is None else valid.expand(-1, 3))
        want_spikes, _ = whole(node, row.repeat(1, 3, 1), None, None if valid is None else valid.repeat(1, 3))
        assert_equal(spikes, want_spikes, f"x{'' if mask is None else ' and mask'} broadcast over a batch of 3")


def _laid_out(form: How, layout: Layout) -> How:
    """The form on an input and a mask with this layout, and on transposed states."""

    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in (state or {}).items()}
        return form(node, layout(x), turned, None if mask is None else layout(mask))

    return run


@check()
def nan_stays_visible(subject: Subject) -> None:
    """NaN in a valid step is NaN in the spike there and reaches no earlier step; neither NaN nor
    infinity reaches another row.
    """
    node = subject.node()
    for places in ((), (4,), (2, 3)):
        x = subject.x(7, 3, *places)
        clean, _ = whole(node, x)
        for t, c, value in product(
            sorted({0, len(x) // 2, len(x) - 1}),
            sorted({0, subject.channels // 2, subject.channels - 1}),
            (float("nan"), float("inf")),
        ):
            poisoned = x.clone()
            poisoned.movedim(subject.axis, 2)[t, 1, c] = value
            for form in forms(subject):
                spikes, _ = form(node, poisoned, None, None)
                at = spikes.movedim(subject.axis, 2)[t, 1, c]
                name = "NaN" if value != value else "infinity"
                where = f"{form.__name__}, {name} at step {t}, row 1, channel {c} of x {list(x.shape)}"
                visible = value == value or bool(at.isnan().all())
                assert visible, f"{where}: the spike there is {at[~at.isnan()].flatten()[0].item()}"
                for row in (0, 2):
                    assert_equal(spikes[:, row], clean[:, row], f"{where}: row {row}")
                if subject.traits.causal and name == "NaN":  # 0 times infinity is NaN
                    assert_equal(spikes[:t], clean[:t], f"{where}: the steps before it")
