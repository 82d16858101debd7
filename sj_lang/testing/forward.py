"""Checks: `forward` wraps `functional`, and SpikingJelly's monitors see what the node does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.compat import spikingjelly
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_close, assert_equal, whole
from sj_lang.testing.subject import Subject


@check(once=True)
def forward_wraps_functional(subject: Subject) -> None:
    """forward is functional with the state kept in the node: both step modes, with a mask too."""
    node, x = subject.node(), subject.x(6, 3)
    want, middle = whole(node, x)
    more, _ = whole(node, x, middle)
    assert_equal(node(x), want, "forward against functional")
    assert_equal(node(x), more, "forward again, with the state kept")
    if subject.traits.steps:
        node.reset()  # type: ignore[operator]
        spikingjelly("functional").set_step_mode(net=node, step_mode="s")
        got = torch.stack([node(x_t) for x_t in x.unbind(0)])
        spikingjelly("functional").set_step_mode(net=node, step_mode="m")
        assert_equal(got, want, "forward, step after step, against functional")
        node.reset()  # type: ignore[operator]
        node.step_mode = "s"  # type: ignore[assignment]
        got = spikingjelly("functional").multi_step_forward(x_seq=x, single_step_module=node)
        assert_equal(got, want, "functional.multi_step_forward of SpikingJelly against functional")
        node.step_mode = "m"  # type: ignore[assignment]
    if subject.traits.takes_mask:
        node.reset()  # type: ignore[operator]
        mask = torch.arange(6, device=x.device)[:, None] < torch.tensor([6, 2, 0], device=x.device)
        assert_equal(node(x, mask=mask), whole(node, x, None, mask)[0], "forward with a mask against functional")


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
    """With store_v_seq, v_seq holds the potential of each step until reset; spikes are the same."""
    node, x = subject.node(), subject.x(6, 3)
    if not hasattr(node, "store_v_seq"):
        return
    spikes = whole(node, x)[0]
    node.store_v_seq = True  # type: ignore[assignment]
    assert_equal(node(x), spikes, "spikes with store_v_seq")
    sequence = node.v_seq
    assert isinstance(sequence, Tensor), f"v_seq after a sequence is a {type(sequence).__name__}"
    assert sequence.shape == x.shape, f"v_seq of a sequence has shape {list(sequence.shape)}, x {list(x.shape)}"
    node.reset()  # type: ignore[operator]
    assert node.v_seq is None, "v_seq is still there after reset"
    if subject.traits.steps:
        node.step_mode = "s"
        for x_t in x.unbind(0):
            node(x_t)
        steps = node.v_seq
        assert isinstance(steps, Tensor), f"v_seq after single steps is a {type(steps).__name__}"
        assert_close(steps, sequence, "v_seq of single steps against v_seq of the sequence")
    if subject.traits.takes_mask:
        _potentials_under_a_mask(subject)


def _potentials_under_a_mask(subject: Subject) -> None:
    """Those of valid steps, at their places, as if the others were absent; in single steps too."""
    node, x = subject.node(), subject.x(6, 3)
    node.store_v_seq = True  # type: ignore[assignment]
    mask = subject.gaps(6, 3)
    mask[0, 1] = mask[-1, 2] = False
    junk = x.masked_fill(~mask[..., None], float("nan"))
    kept = {"a sequence": _kept(node, junk, mask)}
    if subject.traits.steps:
        node.step_mode = "s"  # type: ignore[assignment]
        node.reset()  # type: ignore[operator]
        for x_t, mask_t in zip(junk, mask, strict=True):
            node(x_t, mask=mask_t)
        kept["single steps"] = node.v_seq  # type: ignore[assignment]
        node.step_mode = "m"  # type: ignore[assignment]
    for name, v in kept.items():
        assert v.shape == x.shape, f"v_seq of {name} with a mask has shape {list(v.shape)}, x {list(x.shape)}"
    for b in range(x.shape[1]):
        valid = mask[:, b]
        want = _kept(node, x[valid, b : b + 1], None)
        for name, v in kept.items():
            assert_close(v[valid, b : b + 1], want, f"v_seq of {name}, row {b}, against its valid steps alone")


def _kept(node: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """v_seq of a sequence from rest."""
    node.reset()  # type: ignore[operator]
    node(x) if mask is None else node(x, mask=mask)
    assert isinstance(node.v_seq, Tensor), f"v_seq after a sequence is a {type(node.v_seq).__name__}"
    return node.v_seq
