"""Nodes whose channels are not axis 2."""

import pickle
from typing import Any

import pytest
import torch
from leaky import Leaky, random
from torch import nn

from sj_lang import compat

functional: Any = compat.spikingjelly("functional")


def test_channels_on_the_last_axis() -> None:
    node, x = Leaky(channels=4, axis=-1), random(6, 3, 5, 4)
    spikes, state = node.functional(x)
    rows, after = Leaky(channels=4).functional(x.flatten(1, 2))
    assert torch.equal(spikes, rows.unflatten(1, (3, 5)))
    assert {name: tuple(value.shape) for name, value in state.items()} == {"v": (3, 5, 4), "count": (3, 5, 1)}
    assert torch.equal(state["v"].flatten(0, 1), after["v"])
    node(x)
    compat.spikingjelly("functional").detach_net(nn.Sequential(node))
    with pytest.raises(ValueError, match=r"the state 'v' must have shape \(3, 7, 4\), got \(3, 5, 4\)"):
        node(random(6, 3, 7, 4))
    node.reset()
    assert node(random(6, 3, 7, 4)).shape == (6, 3, 7, 4)
    assert "channels=4, axis=-1," in repr(node)
    assert pickle.loads(pickle.dumps(node)).axis == -1
    older = Leaky(channels=4)
    del older.__dict__["_axis"]  # as pickled before there was one
    assert older.axis == 2


def test_the_axis_of_a_step_counts_along_the_sequence() -> None:
    sequence, step = Leaky(channels=4, axis=3), Leaky(channels=4, axis=3, step_mode="s")
    x = random(6, 3, 5, 4, 2)
    assert torch.equal(torch.stack([step(x_t) for x_t in x]), sequence(x))
    step.reset()
    with pytest.raises(ValueError, match=r"a step of \[T, B, ...\] with the channels on axis 3, got shape \(3, 5\)"):
        step(x[0, :, :, 0, 0])


@pytest.mark.parametrize("axis", [0, 1, True, 2.0, "last"])
def test_an_axis_that_cannot_hold_channels(axis: Any) -> None:
    with pytest.raises(ValueError, match="expected 2 or more, or -1 and so on from the end"):
        Leaky(channels=4, axis=axis)
    with pytest.raises(ValueError, match=r"with the channels on axis -2, got shape \(6, 3, 4\)"):
        Leaky(channels=4, axis=-2)(random(6, 3, 4))
