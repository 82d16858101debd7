"""Runs of a node and what two runs must share: spikes, final states, and every gradient."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang.testing.subject import Subject

How: TypeAlias = Callable[[nn.Module, Tensor, State | None, Tensor | None], tuple[Tensor, State]]

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative to the largest entry of the tensor


@dataclass(frozen=True)
class Outcome:
    """One run. gradients: by leaf, of a fixed random functional of spikes and final state."""

    spikes: Tensor
    state: State
    gradients: dict[str, Tensor]


def whole(node: nn.Module, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
    """The node's multi-step form, in one call."""
    node.step_mode = "m"  # type: ignore[assignment]
    spikes, final = node.functional(x, state=state, mask=mask)  # type: ignore[operator]
    return spikes, final


def stepwise(
    node: nn.Module, x: Tensor, state: State | None = None, mask: Tensor | None = None
) -> tuple[Tensor, State]:
    """One call of the single-step form per step."""
    node.step_mode = "s"  # type: ignore[assignment]
    spikes = []
    try:
        for t, x_t in enumerate(x.unbind(0)):
            spike, state = node.functional(x_t, state=state, mask=None if mask is None else mask[t])  # type: ignore[operator]
            spikes.append(spike)
    finally:
        node.step_mode = "m"  # type: ignore[assignment]
    assert state is not None, "a sequence of no steps"
    return torch.stack(spikes), state


def forms(subject: Subject) -> tuple[How, ...]:
    """The ways to run the node that it declares: sequences, and steps."""
    return (whole, stepwise) if subject.traits.steps else (whole,)


def pieces(*lengths: int, by: Sequence[How] = (whole,)) -> How:
    """Consecutive pieces of these lengths in these forms, in turn, the state carried on."""

    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        spikes, start = [], 0
        for length, form in zip(lengths, cycle(by), strict=False):
            part = slice(start, start + length)
            spike, state = form(node, x[part], state, None if mask is None else mask[part])
            spikes.append(spike)
            start += length
        assert state is not None
        return torch.cat(spikes), state

    return run


def batches_of(rows: int) -> How:
    """The multi-step form on so many rows of the batch at a time."""

    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        spikes, states = [], []
        for start in range(0, x.shape[1], rows):
            part = slice(start, start + rows)
            begun = None if state is None else {name: value[part] for name, value in state.items()}
            spike, after = whole(node, x[:, part], begun, None if mask is None else mask[:, part])
            spikes.append(spike)
            states.append(after)
        return torch.cat(spikes, dim=1), {name: torch.cat([each[name] for each in states]) for name in states[0]}

    return run


def rows_with_masked_steps_deleted(
    node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None
) -> tuple[Tensor, State]:
    """What `mask` means: each row alone, without its masked steps; one of none keeps its state."""
    assert mask is not None
    node.step_mode = "m"  # type: ignore[assignment]
    start = state if state is not None else node.init_state(x)  # type: ignore[operator]
    outputs, states = [], []
    for b in range(x.shape[1]):
        row = {name: value[b : b + 1] for name, value in start.items()}
        output = torch.zeros_like(x[:, b : b + 1])
        valid = mask[:, b]
        if bool(valid.any()):
            spikes, row = whole(node, x[valid, b : b + 1], row)
            output = output.index_put((valid.nonzero().squeeze(1),), spikes)
        outputs.append(output)
        states.append(row)
    return torch.cat(outputs, dim=1), {name: torch.cat([row[name] for row in states]) for name in states[0]}


def outcome(
    node: nn.Module,
    how: How,
    x: Tensor,
    state: State | None = None,
    mask: Tensor | None = None,
    *,
    grad: bool = True,
    needing: Container[str] | None = None,
    incoming: Mapping[str, Tensor] | None = None,
) -> Outcome:
    """Run the node on leaves of its own and take every gradient: inputs, initial state, parameters.

    grad: False for none, under the grad mode of the caller. needing: names of those to take; None:
    all. incoming: gradients of "spikes" and final states; None: those of `weighed`.
    """
    x = x.detach().clone(memory_format=torch.preserve_format)
    state = None if state is None else {name: value.detach().clone() for name, value in state.items()}
    if not grad:
        spikes, final = how(node, x, state, mask)
        return Outcome(spikes, final, {})
    leaves = {"x": x}
    leaves |= {f"state[{name!r}]": value for name, value in (state or {}).items() if value.is_floating_point()}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items() if needing is None or name in needing}
    leaves |= {name: parameter for name, parameter in node.named_parameters() if parameter.requires_grad}
    spikes, final = how(node, x, state, mask)
    outputs = {"spikes": spikes, **final}
    asked = {"loss": weighed(outputs)} if incoming is None else {name: outputs[name] for name in incoming}
    asked = {name: value for name, value in asked.items() if value.requires_grad}
    assert asked or incoming, "neither the spikes nor the final state depend on any leaf: the graph is cut"
    come = None if incoming is None else [incoming[name] for name in asked]
    into = list(leaves.values())
    taken = torch.autograd.grad([*asked.values()], into, come, allow_unused=True) if asked else (None,) * len(into)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), taken, strict=True)
    }
    return Outcome(spikes.detach(), {name: value.detach() for name, value in final.items()}, gradients)


def weighed(outputs: dict[str, Tensor]) -> Tensor:
    """A fixed random linear functional of the floating-point outputs, computed in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in outputs.items():
        if value.is_floating_point():
            total = total.to(value.device) + (value.double() * weights(name, value)).sum()
    return total


def weights(name: str, value: Tensor) -> Tensor:
    """Fixed random numbers for the output of this name: float64, exact in bfloat16 too."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(value.shape, generator=generator).bfloat16().double().to(value.device)


def assert_same(
    subject: Subject,
    got: Outcome,
    want: Outcome,
    what: str,
    *,
    x: Tensor,
    state: State | None = None,
    mask: Tensor | None = None,
) -> None:
    """Spikes are equal (see `assert_spikes`), final states and gradients close; else says which."""
    what = f"{what}, x {list(x.shape)}"
    flips = assert_spikes(subject, got.spikes, want.spikes, what, x=x, state=state, mask=mask)
    assert got.state.keys() == want.state.keys(), f"{what}: states {sorted(got.state)} and {sorted(want.state)}"
    if flips:
        return  # a spike that differs, as it may, moves everything after it
    for name in want.state:
        assert_close(got.state[name], want.state[name], f"{what}: final state '{name}'")
    for name in got.gradients:
        assert_close(got.gradients[name], want.gradients[name], f"{what}: gradient of {name}")


def assert_spikes(
    subject: Subject,
    got: Tensor,
    want: Tensor,
    what: str,
    *,
    x: Tensor,
    state: State | None = None,
    mask: Tensor | None = None,
) -> int:
    """Spikes are equal, not close. Returns how many differ, within the margin of a threshold."""
    assert got.shape == want.shape, f"{what}: shapes {list(got.shape)} and {list(want.shape)}"
    assert_same_nan(got, want, what)
    differ = (got != want) & ~want.isnan()
    count = int(differ.sum())
    if count == 0:
        return 0
    where = differ.nonzero()[0].tolist()
    far = int((differ & ~_near_threshold(subject, x, state, mask)).sum())
    assert far == 0, (
        f"{what}: {count} of {differ.numel()} spikes differ, {far} of them away from a threshold; "
        f"first at {where}: {got[tuple(where)].item()} and {want[tuple(where)].item()}"
    )
    allowed = max(1, int(subject.flips * differ.numel()))
    assert count <= allowed, f"{what}: {count} of {differ.numel()} spikes differ, near a threshold; {allowed} may"
    return count


def _near_threshold(subject: Subject, x: Tensor, state: State | None, mask: Tensor | None) -> Tensor:
    """Where a spike changes if the inputs change by `margin`: the node itself, in float64."""
    exact = subject.at(torch.float64)
    node = exact.node()
    start = None if state is None else {name: value.double() for name, value in state.items()}
    margin = subject.margin * (1e-5 if subject.dtype == torch.float64 else 1.0)
    generator = torch.Generator().manual_seed(0)
    first: Tensor | None = None
    near = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    for trial in range(16):
        sign = torch.randn(x.shape, generator=generator, dtype=torch.float64).sign().to(x.device)
        sign = sign if trial > 1 else torch.ones_like(sign) * (1 - 2 * trial)
        moved = x.detach().double() + margin * sign * (1 + x.detach().double().abs())
        with torch.no_grad():
            spikes, _ = whole(deepcopy(node), moved, start, mask)
        first = spikes if first is None else first
        near |= spikes != first
    return near


def assert_close(got: Tensor, want: Tensor, what: str, close: float | None = None) -> None:
    """Equal within CLOSE of their precision, relative to the largest entry; NaN where NaN."""
    assert got.shape == want.shape, f"{what}: shapes {list(got.shape)} and {list(want.shape)}"
    if want.numel() == 0:
        return
    assert_same_nan(got, want, what)
    got, want = got.detach().nan_to_num(), want.detach().nan_to_num()
    close = CLOSE.get(want.dtype, 1e-2) if close is None else close
    scale = max(1.0, float(want.abs().max()))
    error = float((got - want).abs().max())
    assert error <= close * scale, (
        f"{what} differs by {error:.3g}; largest entry {scale:.3g}, allowed {close:.0e} of it"
    )


def assert_same_nan(got: Tensor, want: Tensor, what: str) -> None:
    """NaN at the same places."""
    mine, right = got.isnan(), want.isnan()
    assert bool((mine == right).all()), f"{what}: {int(mine.sum())} entries are NaN, {int(right.sum())} should be"


def assert_equal(got: Tensor, want: Tensor, what: str) -> None:
    """Equal to the bit, NaN where NaN."""
    assert got.shape == want.shape, f"{what}: shapes {list(got.shape)} and {list(want.shape)}"
    differ = (got != want) & ~(got.isnan() & want.isnan())
    assert not bool(differ.any()), f"{what}: {int(differ.sum())} of {differ.numel()} entries differ"


def detached(state: State) -> State:
    """The same values without a graph and in storage of their own."""
    return {name: value.detach().clone() for name, value in state.items()}


def splits(length: int) -> Sequence[tuple[int, ...]]:
    """Ways to cut a sequence: short first, short last, uneven thirds, single steps."""
    ways = [(1, length - 1), (length - 1, 1), (2, 2, length - 4), (1,) * length]
    return [way for way in ways if min(way) > 0]
