"""check_node called wrongly: one error that says what is wrong and what is right,
before any check runs.
"""

from typing import Any

import pytest
import torch
from torch import nn
from toy_node import Toy

from sj_lang import build
from sj_lang.compat import spikingjelly
from sj_lang.testing import Subject, Traits, check_node

ALL = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}


class TakesItsWidth(Toy):
    def __init__(self, width: int) -> None:
        super().__init__(channels=width)


def native(channels: int) -> nn.Module:
    node: nn.Module = spikingjelly("neuron").LIFNode()
    return node


SHARED = Toy(channels=5)

MAKES = {
    "a node": (Toy(channels=5), "make is a Toy that is built already"),
    "a name": ("lif", "make is a str: hand in the class, or a function"),
    "no channels": (lambda: Toy(channels=5), r"cannot be called as make\(channels=5\): got an unexpected keyword"),
    "another name": (TakesItsWidth, r"cannot be called as make\(channels=5\): missing .*'width'.* lambda channels: "),
    "another width": (lambda channels: Toy(channels=7), r"node of 7 channels: hand the number on, .*channels=7$"),
    "one node": (lambda channels: SHARED, "returns the same node twice"),
    "nothing": (lambda channels: None, r"make\(channels=5\) returns a NoneType, not a node"),
    "a native class": (spikingjelly("neuron").LIFNode, "LIFNode is not a neuron .* it has no functional, init_state, "),
    "a native node": (native, "it has no functional, init_state, levels; sj_lang.neuron.Node .*docs/plugins.md$"),
    "a layer": (lambda channels: nn.Linear(channels, channels), "Linear is not a neuron .* no functional, init_state"),
}


@pytest.mark.parametrize("name", MAKES)
def test_a_make_that_builds_no_fresh_node_of_these_channels_is_refused(name: str) -> None:
    make, message = MAKES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        check_node(make, traits=ALL)


def test_the_channels_that_are_asked_for_are_those_of_the_call() -> None:
    report = check_node(lambda channels: Toy(channels=7), traits=ALL, channels=7, only=["steps_as_declared"])
    assert report.passed


def test_a_node_need_not_say_its_channels() -> None:
    class AnyWidth(Toy):
        def functional(self, x: Any, state: Any = None, mask: Any = None) -> Any:
            self.channels = x.shape[1 if self.step_mode == "s" else 2]
            result = super().functional(x, state, mask)
            self.channels = None
            return result

    def make(channels: int) -> nn.Module:
        node = AnyWidth(channels=channels)
        node.channels = None
        return node

    assert check_node(make, traits=ALL, only=["steps_as_declared"]).passed


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "skip": ({"skip": ["compiles"]}, "skip: a mapping of each check to the reason, .* got a list"),
    "only": ({"only": "odd_sizes"}, r"only: expected a list, such as only=\['odd_sizes'\]"),
    "backends": ({"backends": "torch"}, r"backends: expected a list, such as backends=\['torch'\]"),
    "no backends": ({"backends": ()}, "backends: the list is empty, nothing would be run"),
    "compilers": ({"compilers": "inductor"}, r"compilers: expected a list, such as compilers=\['inductor'\]"),
    "dtypes": ({"dtypes": torch.float32}, r"dtypes: expected a list, such as dtypes=\[torch.float32\]"),
    "a dtype's name": ({"dtypes": ("float32",)}, "dtypes: 'float32' is neither torch.float64 nor torch.float32"),
    "a narrow dtype": ({"dtypes": [torch.bfloat16]}, "dtypes: torch.bfloat16 is neither"),
    "no dtypes": ({"dtypes": []}, "dtypes: the list is empty"),
    "an option": ({"chanels": 3}, "check_node has no argument 'chanels'; did you mean 'channels'"),
    "one dtype": ({"dtype": torch.float32}, "check_node has no argument 'dtype'; did you mean 'dtypes'"),
    "a trait": ({"traits": {**ALL, "casual": True}}, "traits: no trait 'casual'; did you mean 'causal'"),
    "a trait's value": ({"traits": {**ALL, "causal": "no"}}, "traits: causal is 'no', it must be True or False"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_of_the_wrong_kind_is_refused(name: str) -> None:
    arguments, message = ARGUMENTS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        check_node(Toy, **{"traits": ALL, **arguments})


def test_the_traits_of_a_registration_hold_more_than_flags() -> None:
    make = build.part("neuron", "lif")
    assert "parameters_per_channel" in make.traits
    assert Traits.of(make.traits) == Traits(**ALL)


def test_building_to_look_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    check_node(Toy, traits=ALL, only=["steps_as_declared"])
    assert torch.equal(torch.rand(3), want)


def test_a_subject_refuses_a_name_for_a_list() -> None:
    with pytest.raises(TypeError, match="compilers: expected a list"):
        Subject(make=Toy, traits=Traits(**ALL), compilers="inductor")  # type: ignore[arg-type]
