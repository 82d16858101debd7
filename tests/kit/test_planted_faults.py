"""The kit is proven: each planted fault is caught, by the check that names it;
and the node without it passes.
"""

import re

import faults_of_autograd  # noqa: F401  (a file of faults notes them when it is imported)
import faults_of_declarations  # noqa: F401
import faults_of_kernels  # noqa: F401
import faults_of_modes  # noqa: F401
import faults_of_sizes  # noqa: F401
import faults_of_states  # noqa: F401
import pytest
from faults_of_sequences import Stateless
from planted import FAULTS
from toy_node import Toy, reference

from sj_lang.testing import CHECKS, NodeFailed, check_node

ALL = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}
GIVEN = {"reference": reference, "ops": {"torch": ["sj_lang_toy::scan"]}}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_is_caught_by_the_check_that_names_it(name):
    node, check, says, declared = FAULTS[name]
    with pytest.raises(NodeFailed) as caught:
        check_node(node, traits={**ALL, **declared}, only=[check], **GIVEN)
    assert {failure.check for failure in caught.value.failures} == {check}
    assert re.search(says, str(caught.value)), str(caught.value)


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
