"""Checks: `forward` wraps `functional`, and SpikingJelly's monitors see what the node does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import How, assert_close, assert_equal, assert_same, outcome, pieces, stepwise, whole
from sj_lang.testing.subject import Subject


def called(mode: str) -> How:
    """`forward` in this step mode, from the state that the node keeps to the next."""

    def run(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        spikingjelly("functional").set_step_mode(net=node, step_mode=mode)
        calls = [(x, mask)] if mode == "m" else [(x[t], None if mask is None else mask[t]) for t in range(len(x))]
        spikes = [node(part) if valid is None else node(part, mask=valid) for part, valid in calls]
        node.step_mode = "m"  # type: ignore[assignment]
        return spikes[0] if mode == "m" else torch.stack(spikes), dict(node.named_memories())  # type: ignore[operator]

    return run


@check(once=True)
def forward_wraps_functional(subject: Subject) -> None:
    """forward is functional with the state kept in the node, across masks and step modes."""
    node, x = subject.node(), subject.x(6, 3)
    want, middle = whole(node, x)
    more, _ = whole(node, x, middle)
    assert_equal(node(x), want, "forward against functional")
    assert_equal(node(x), more, "forward again, with the state kept")
    trials: dict[str, tuple[tuple[int, ...], str]] = {"in one call": ((len(x),), "m")}
    if subject.traits.steps:
        trials |= {"step after step": ((6,), "s"), "a sequence, two single steps, a sequence": ((3, 1, 1, 1), "mssm")}
        node.reset()  # type: ignore[operator]
        node.step_mode = "s"  # type: ignore[assignment]
        got = spikingjelly("functional").multi_step_forward(x_seq=x, single_step_module=node)
        assert_equal(got, want, "functional.multi_step_forward of SpikingJelly against functional")
    mask = torch.arange(len(x), device=x.device)[:, None] < torch.tensor([6, 2, 0], device=x.device)
    for valid in (None, mask) if subject.traits.takes_mask else (None,):
        for what, (lengths, modes) in trials.items():
            want, _ = pieces(*lengths, by=[whole if mode == "m" else stepwise for mode in modes])(node, x, None, valid)
            node.reset()  # type: ignore[operator]
            got, _ = pieces(*lengths, by=[called(mode) for mode in modes])(node, x, None, valid)
            masked = "" if valid is None else "with a mask, "
            assert_equal(got, want, f"forward, {what}, {masked}x {list(x.shape)}, against functional")


@check(once=True)
def monitors_record(subject: Subject) -> None:
    """SpikingJelly's monitors see spikes, gradients, and v_seq if the node can store potentials."""
    node, x = subject.node(), subject.x(6, 3).requires_grad_()
    net, kind, monitors = nn.Sequential(node), type(node), spikingjelly("monitor")
    seen = {
        "OutputMonitor": monitors.OutputMonitor(net=net, instance=kind),
        "GradInputMonitor": monitors.GradInputMonitor(net=net, instance=kind),
    }
    expected: dict[str, Any] = {}
    if hasattr(node, "store_v_seq"):
        node.store_v_seq = True  # type: ignore[assignment]
        seen["AttributeMonitor of v_seq"] = monitors.AttributeMonitor(
            attribute_name="v_seq", pre_forward=False, net=net, instance=kind
        )
    spikes = net(x)
    (expected["GradInputMonitor"],) = torch.autograd.grad(spikes.sum(), x)
    expected["OutputMonitor"] = spikes
    expected["AttributeMonitor of v_seq"] = getattr(node, "v_seq", None)
    for name, monitor in seen.items():
        monitor.remove_hooks()
        assert len(monitor.records) == 1, f"{name} has {len(monitor.records)} records of one call"
        record, want = monitor.records[0], expected[name]
        assert isinstance(record, Tensor), f"{name} records a {type(record).__name__}"
        assert_equal(record, want, f"what {name} records")


@check(once=True)
def potentials_are_stored(subject: Subject) -> None:
    """store_v_seq keeps potentials and their gradients until reset, and changes no more."""
    node, x = subject.node(), subject.x(6, 3)
    if not hasattr(node, "store_v_seq"):
        return
    modes = {"a sequence": called("m")} | ({"single steps": called("s")} if subject.traits.steps else {})
    ways = {f"forward, {name},": run for name, run in modes.items()} | {"functional": whole}
    for name, run in (ways | ({"functional in single steps": stepwise} if subject.traits.steps else {})).items():
        for mask in (None, subject.gaps(6, 3)) if subject.traits.takes_mask else (None,):
            runs = []
            for stored in (False, True):
                node.store_v_seq = stored  # type: ignore[assignment]
                node.reset()  # type: ignore[operator]
                runs.append(outcome(node, run, x, None, mask))
            masked = "" if mask is None else "masked, "
            assert_same(subject, runs[1], runs[0], f"{name} {masked}with store_v_seq against without", x=x, mask=mask)
    first = outcome(node, _kept(called("m")), x)
    for name, run in modes.items():
        v = outcome(node, _kept(run), x)
        assert_close(v.spikes, first.spikes, f"v_seq of {name} against v_seq of a sequence, x {list(x.shape)}")
        for leaf, gradient in v.gradients.items():
            what = f"v_seq of {name}, x {list(x.shape)}: gradient of {leaf}"
            assert_close(gradient, first.gradients[leaf], f"{what}, against that of a sequence")
        node.reset()  # type: ignore[operator]
        assert node.v_seq is None, "v_seq is still there after reset"
    wide = subject.x(6, 2, 4)
    folded, _ = _kept(called("m"))(node, wide.movedim(subject.axis, -1).flatten(1, -2), None, None)
    for name, run in modes.items():
        potentials, _ = _kept(run)(node, wide, None, None)
        want = torch.unflatten(folded, 1, (2, 4)).movedim(-1, subject.axis)
        what = f"v_seq of {name}, x {list(wide.shape)}, against its places moved into the batch"
        assert_close(potentials, want, what)
    if subject.traits.takes_mask:
        _potentials_under_a_mask(subject, modes)


def _potentials_under_a_mask(subject: Subject, modes: dict[str, How]) -> None:
    """Potentials of valid steps are those without the others; in single steps too."""
    node, x = subject.node(), subject.x(6, 3)
    node.store_v_seq = True  # type: ignore[assignment]
    mask = subject.gaps(6, 3)
    mask[0, 1] = mask[-1, 2] = False
    junk = x.masked_fill(~mask[..., None], float("nan"))
    for name, run in modes.items():
        leaf, alone = junk.clone().requires_grad_(), x.clone().requires_grad_()
        v, _ = _kept(run)(node, leaf, None, mask)
        (gradient,) = torch.autograd.grad(v[mask].sum(), leaf)
        for b in range(x.shape[1]):
            valid = mask[:, b]
            want, _ = _kept(called("m"))(node, alone[valid, b : b + 1], None, None)
            what = f"v_seq of {name}, row {b}, against its valid steps alone"
            assert_close(v[valid, b : b + 1], want, what)
            (of_it,) = torch.autograd.grad(want.sum(), alone)
            assert_close(gradient[:, b], of_it[:, b], f"{what}: gradient of x")


def _kept(run: How) -> How:
    """v_seq after a run from rest."""

    def potentials(node: nn.Module, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        node.reset()  # type: ignore[operator]
        run(node, x, state, mask)
        v = node.v_seq
        assert isinstance(v, Tensor), f"v_seq after x {list(x.shape)} is a {type(v).__name__}"
        assert v.shape == x.shape, f"v_seq has shape {list(v.shape)}, x {list(x.shape)}"
        assert v.requires_grad or not x.requires_grad, (
            f"v_seq is detached: no gradient goes from it to x {list(x.shape)}"
        )
        return v, {}

    return potentials
