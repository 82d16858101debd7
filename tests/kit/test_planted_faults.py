"""The kit is proven: each planted fault is caught, by the check that names it;
and the node without it passes.
"""

import re
import warnings

import faults_of_autograd  # noqa: F401  (a file of faults notes them when it is imported)
import faults_of_combinations  # noqa: F401
import faults_of_declarations  # noqa: F401
import faults_of_kernels  # noqa: F401
import faults_of_modes  # noqa: F401
import faults_of_sizes  # noqa: F401
import faults_of_states  # noqa: F401
import numpy as np
import pytest
import torch
from faults_of_sequences import Stateless
from planted import FAULTS
from toy_node import Toy, reference

from sj_lang.testing import CHECKS, NodeFailed, check_node

ALL = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}
GIVEN = {"reference": reference, "ops": {"torch": ["sj_lang_toy::scan"]}}


@pytest.mark.any_line
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_is_caught_by_the_check_that_names_it(name):
    node, check, says, declared = FAULTS[name]
    with pytest.raises(NodeFailed) as caught:
        check_node(node, traits={**ALL, **declared}, only=[check], **GIVEN)
    assert {failure.check for failure in caught.value.failures} == {check}
    assert re.search(says, str(caught.value)), str(caught.value)


class SetsIt(Toy):
    """Sets the default dtype, in calls with such inputs alone."""

    when = staticmethod(lambda x: False)

    def functional(self, x, state=None, mask=None):
        if self.when(x):
            torch.set_default_dtype(torch.float16)
        return super().functional(x, state, mask)


class SetsItForHalfPrecision(SetsIt):
    when = staticmethod(lambda x: x.itemsize == 2)


class SetsItInLongSequences(SetsIt):
    when = staticmethod(lambda x: len(x) > 1000)


class SetsItWithTrailingAxes(SetsIt):
    when = staticmethod(lambda x: x.dim() > 4)


class SetsItWhenItIsBuilt(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        torch.set_default_dtype(torch.float16)


@pytest.mark.parametrize(
    ("node", "check", "says"),
    [
        (SetsItForHalfPrecision, "half_precision", "a call in half_precision changes"),
        (SetsItInLongSequences, "long_sequences", "a call in long_sequences changes"),
        (SetsItWithTrailingAxes, "odd_sizes", "a call in odd_sizes changes"),
        (SetsItWhenItIsBuilt, "odd_sizes", "building the node changes"),
    ],
)
def test_a_setting_is_watched_in_every_check(node, check, says):
    before = torch.get_default_dtype()
    with pytest.raises(NodeFailed) as caught:
        check_node(node, traits=ALL, only=[check], **GIVEN)
    assert f"nothing_global_changes: {says} torch.get_default_dtype() from torch.float32 to" in str(caught.value)
    assert torch.get_default_dtype() == before


class DrawsInLongSequences(Toy):
    def sequence(self, x, state, lengths):
        if len(x) > 1000:
            torch.rand(1)
        return super().sequence(x, state, lengths)


class DrawsFromNumpyInLongSequences(Toy):
    def sequence(self, x, state, lengths):
        if len(x) > 1000:
            np.random.rand(1)
        return super().sequence(x, state, lengths)


class IgnoresWarnings(Toy):
    def sequence(self, x, state, lengths):
        warnings.simplefilter("ignore")
        return super().sequence(x, state, lengths)


class ChoosesAlgorithmsByTrial(Toy):
    def sequence(self, x, state, lengths):
        torch.backends.cudnn.benchmark = True
        return super().sequence(x, state, lengths)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (DrawsInLongSequences, "the state of torch's global random generator"),
        (DrawsFromNumpyInLongSequences, "the state of numpy's"),
        (IgnoresWarnings, "the action of warnings from "),
        (ChoosesAlgorithmsByTrial, "torch.backends.cudnn.benchmark from False to True"),
    ],
)
def test_what_a_process_has_once_is_watched_in_every_check(node, says):
    with warnings.catch_warnings(), pytest.raises(NodeFailed) as caught:
        check_node(node, traits=ALL, only=["long_sequences"], **GIVEN)
    assert f"nothing_global_changes: a call in long_sequences changes {says}" in str(caught.value)
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_healthy_node_passes(check):
    report = check_node(Toy, traits=ALL, only=[check], **GIVEN)
    assert report.passed
    assert not report.skipped


def test_healthy_node_without_a_state_passes():
    declared = {**ALL, "causal": False, "steps": False, "carries_state": False}
    report = check_node(Stateless, traits=declared, ops=GIVEN["ops"])
    assert any(line.startswith("long_sequences") for line in report.passed)


def test_every_check_has_a_fault():
    assert {check for _, check, _, _ in FAULTS.values()} == set(CHECKS)
    assert len(FAULTS) >= 20
