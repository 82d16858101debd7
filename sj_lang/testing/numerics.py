"""Checks: exact gradients, precisions, sizes, memory layouts, NaN."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck

from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_close, assert_equal, assert_same, assert_spikes, outcome, stepwise, whole
from sj_lang.testing.subject import State, Subject


@check(once=True)
def spikes_are_levels(subject: Subject) -> None:
    """Spikes are whole numbers from 0 to levels, or in `spike_range`, for small inputs and large."""
    node = subject.node()
    levels = cast(int, node.levels)
    lowest, highest = cast(tuple[int, int], getattr(node, "spike_range", (0, levels)))
    largest = max(-lowest, highest)
    assert levels == largest, f"levels is {levels}, it must be {largest} for spikes of {lowest} to {highest}"
    for size in (0.1, 1.0, 100.0):
        with torch.no_grad():
            spikes, _ = whole(node, subject.x(9, 8) * size)
        assert bool((spikes == spikes.round()).all()), f"inputs times {size}: spikes that are no integers"
        low, high = float(spikes.min()), float(spikes.max())
        assert lowest <= low, f"inputs times {size}: a spike of {low}"
        assert high <= highest, f"inputs times {size}: a spike of {high}, levels is {levels}"


@check(once=True)
def gradients_are_exact(subject: Subject) -> None:
    """With the firing made smooth, every gradient equals finite differences in float64, in both step modes."""
    exact = subject.at(torch.float64)
    for form in (whole, stepwise) if subject.traits.steps else (whole,):
        _assert_exact(subject, exact, form, 4)
    if subject.traits.any_length and not subject.traits.carries_state:
        _assert_exact(subject, exact, whole, 150)  # no pieces to compare with: see long_sequences


def _assert_exact(subject: Subject, exact: Subject, form: Callable[..., tuple[Tensor, State]], length: int) -> None:
    node = exact.node()
    subject.smoothen(node)
    x = exact.x(length, 1)
    state = exact.state(node, x)
    leaves = {"x": x, **{f"state '{name}'": value for name, value in state.items()}}
    for leaf in leaves.values():
        leaf.requires_grad_()
    leaves |= {f"parameter '{name}'": value for name, value in node.named_parameters() if value.requires_grad}

    def outputs(*_: Tensor) -> tuple[Tensor, ...]:
        spikes, final = form(node, x, state)
        return (spikes, *(value for value in final.values() if value.is_floating_point()))

    unused = [name for name, p in node.named_parameters() if p.requires_grad and not _reaches(outputs(), p)]
    assert not unused, f"{form.__name__}: no gradient for {', '.join(unused)}"
    try:
        gradcheck(outputs, list(leaves.values()), eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    except GradcheckError as error:
        spikes, final = form(node, x, state)
        results = {"the spikes": spikes, **{f"the final state '{name}'": value for name, value in final.items()}}
        names = [name for name, value in results.items() if value.requires_grad]  # those that gradcheck counts
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
    """bfloat16 and float16 inputs, and autocast: spikes as in float32, states float32, gradients there."""
    single = subject.at(torch.float32)
    node = single.node()
    for dtype in (torch.bfloat16, torch.float16):
        x = single.x(9, 8).to(dtype)
        got = outcome(node, whole, x)
        want = outcome(node, whole, x.float())
        assert got.spikes.dtype == dtype, f"spikes are {got.spikes.dtype} for {dtype} input"
        _assert_float32(got.state, f"{dtype} input")
        assert_spikes(single, got.spikes.float(), want.spikes, f"{dtype} input against float32", x=x.float())
        for name, gradient in got.gradients.items():
            assert_close(gradient.float(), want.gradients[name], f"{dtype} input: gradient of {name}", close=2e-2)
    x = single.x(9, 8)
    want = outcome(node, whole, x)
    got = outcome(node, _under_autocast, x)
    _assert_float32(got.state, "under autocast")
    assert_same(single, got, want, "under autocast", x=x)


def _under_autocast(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return whole(node, x, state, mask)


def _assert_float32(state: State, what: str) -> None:
    for name, value in state.items():
        assert value.dtype == torch.float32, f"{what}: state '{name}' is {value.dtype}"


@check()
def odd_sizes(subject: Subject) -> None:
    """T = 1, one row, no rows, odd T, [T, B, C, H, W]: shapes, finite gradients, T = 1 equal to the start of more."""
    node = subject.node()
    longer = subject.x(7, 3)
    if subject.traits.any_length and subject.traits.causal:
        want = whole(node, longer)[0][:1]
        assert_equal(whole(node, longer[:1])[0], want, "T = 1 against the first step of a longer sequence")
    for shape in ((1, 3), (2, 1), (33, 3), (5, 0), (1, 0), (5, 2, 3), (5, 2, 3, 2)):
        x = subject.x(*shape)
        state = subject.state(node, x)
        got = outcome(node, whole, x, state)
        what = f"x of shape {list(x.shape)}"
        assert got.spikes.shape == x.shape, f"{what}: spikes of shape {list(got.spikes.shape)}"
        for name, value in got.state.items():
            assert value.shape == state[name].shape, f"{what}: state '{name}' of shape {list(value.shape)}"
        for name, gradient in got.gradients.items():
            assert bool(gradient.isfinite().all()), f"{what}: gradient of {name} is not finite"


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch first in memory": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels first in memory": lambda x: x.movedim(2, 0).contiguous().movedim(0, 2),
    "reversed in memory": lambda x: (
        x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    ),
    "every second entry": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "at an offset": lambda x: torch.cat([x[:1], x])[1:],
}


@check()
def memory_layouts(subject: Subject) -> None:
    """Inputs that are not contiguous, permuted or broadcast give what their contiguous copies give."""
    node = subject.node()
    for trailing in ((), (2, 3)):
        x = subject.x(7, 3, *trailing)
        state = subject.state(node, x)
        want = outcome(node, whole, x, state)
        for name, layout in LAYOUTS.items():

            def laid_out(
                n: nn.Module,
                y: Tensor,
                s: State | None,
                m: Tensor | None,
                layout: Callable[[Tensor], Tensor] = layout,
            ) -> tuple[Tensor, State]:
                same = {key: value.transpose(0, -1).contiguous().transpose(0, -1) for key, value in (s or {}).items()}
                return whole(n, layout(y), same, m)

            assert_same(subject, outcome(node, laid_out, x, state), want, f"x {name}", x=x, state=state)
    row = subject.x(7, 1)
    spikes, _ = whole(node, row.expand(-1, 3, -1))
    assert_equal(spikes, whole(node, row.repeat(1, 3, 1))[0], "x broadcast over the batch")


@check()
def nan_stays_visible(subject: Subject) -> None:
    """NaN in a valid step is NaN in the spike there; other rows, and earlier steps of a causal node, do not see it."""
    node, x = subject.node(), subject.x(7, 3)
    clean, _ = whole(node, x)
    middle = subject.channels // 2
    for t in sorted({0, len(x) // 2, len(x) - 1}):
        poisoned = x.clone()
        poisoned[t, 1, middle] = float("nan")
        spikes, _ = whole(node, poisoned)
        assert bool(spikes[t, 1, middle].isnan()), f"NaN at step {t}: the spike there is {spikes[t, 1, middle].item()}"
        for row in (0, 2):
            assert_equal(spikes[:, row], clean[:, row], f"NaN in row 1, step {t}: row {row}")
        if subject.traits.causal:
            assert_equal(spikes[:t], clean[:t], f"NaN at step {t}: the steps before it")
    if subject.traits.steps:
        spikes, _ = stepwise(node, poisoned)
        assert bool(spikes[-1, 1, middle].isnan()), "NaN in single-step mode: it is gone from the spike"
