"""What neurons tell the monitor of their decays is what a step without input keeps of a state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sj_lang.build import part
from sj_lang.monitor import decays

#: neuron -> the state that decays, and its decay's name
KEEPING = [
    ({"type": "dsn"}, "h", "alpha"),
    ({"type": "dsn", "alpha_init": 0.9, "decay": "static"}, "h", "alpha"),
    ({"type": "bpsn", "direction": "forward"}, "numerator", "past"),
    ({"type": "plif", "init_tau": 3.0, "v_reset": None}, "v", "1 - 1 / tau"),
]


@pytest.mark.parametrize(("spec", "state", "name"), KEEPING, ids=str)
def test_a_decay_is_what_a_step_without_input_keeps(spec: dict[str, Any], state: str, name: str) -> None:
    torch.manual_seed(0)
    node = part("neuron", spec)(channels=6)
    nothing = torch.zeros(1, 1, 6)
    before = node.init_state(nothing)
    before[state] = torch.full_like(before[state], 0.25)
    after = node.functional(nothing, before)[1][state]
    kept = decays(nn.Sequential(node))[f"0 {name}"]
    torch.testing.assert_close(after[0] / 0.25, kept.expand(6), rtol=1e-5, atol=1e-6)


def test_both_directions_of_bpsn_decay() -> None:
    node = part("neuron", "bpsn")(channels=6)
    told = decays(nn.ModuleDict({"layer": node}))
    assert {name: values.shape for name, values in told.items()} == {"layer past": (6,), "layer future": (6,)}


def test_neurons_without_a_learned_decay_have_none() -> None:
    assert decays(nn.Sequential(part("neuron", "lif")(channels=6), nn.Linear(2, 2))) == {}
