"""check_node as people call it: declarations, selections, reports, messages;
and the helpers for paper properties.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults_of_kernels import NanSwallowed
from faults_of_sequences import WindowOffByOne
from faults_of_states import TensorGrowsInAPart
from torch import nn
from toy_node import Toy

from sj_lang import build
from sj_lang.errors import UserError
from sj_lang.testing import CHECKS, CheckFailed, NodeFailed, Subject, Traits, check_node, numerics, sequence, states
from sj_lang.testing.kernels import unwritten_memory_is_nan
from sj_lang.testing.properties import influence, longest_run, potentials
from sj_lang.testing.refuse import assert_refuses

ALL = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}


def test_the_fixture_is_the_function(check_node):
    report = check_node(Toy, traits=ALL, only=["steps_as_declared", "odd_sizes"])
    assert sorted(report.passed) == [
        "odd_sizes [cpu, float32]",
        "odd_sizes [cpu, float64]",
        "steps_as_declared [cpu, float64]",
    ]


def test_the_pytest_plugin_imports_no_torch():
    code = "import sys, sj_lang.testing.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_declaration_comes_from_a_make_a_registration_or_a_mapping():
    make = build.part("neuron", "lif")
    for source in (make, make.traits, Traits(**ALL)):
        assert Traits.of(source) == Traits(**ALL)
    with pytest.raises(TypeError, match="a mapping of causal, steps, carries_state, takes_mask, any_length"):
        check_node(Toy)
    with pytest.raises(TypeError, match="a mapping of"):
        check_node(Toy, traits={"causal": True})


def test_all_failures_are_told_together():
    broken = NanSwallowed
    with pytest.raises(NodeFailed) as caught:
        check_node(broken, traits=ALL, only=["nan_stays_visible", "steps_as_declared"])
    names = [failure.check for failure in caught.value.failures]
    assert names == ["nan_stays_visible", "nan_stays_visible"]  # in float64 and in float32
    text = str(caught.value)
    assert text.startswith("2 of 3 checks failed\n")
    assert "nan_stays_visible: whole, NaN at step 0, row 1, channel 0 of x [7, 3, 5]: the spike there is 0.0" in text
    assert text.endswith(" [cpu, float64; cpu, float32]")


class RaisesByShape(Toy):
    def advance(self, x, state, mask, *, single):
        if x.shape[2:] != (5,):
            return super().advance(x, state, mask, single=single)
        raise KeyError(f"no table for {x.shape[0]} steps")


def test_an_error_of_several_checks_is_told_once():
    several = ["odd_sizes", "nan_stays_visible", "arguments_are_not_changed"]
    with pytest.raises(NodeFailed) as caught:
        check_node(RaisesByShape, traits=ALL, only=several, inputs=torch.zeros, dtypes=[torch.float32, torch.float64])
    assert len(caught.value.failures) == 5
    heading, group, names = str(caught.value).splitlines()
    assert heading == "5 of 5 checks failed"
    reason = "raised KeyError: 'no table for 7 steps' (in some with other numbers) [cpu, float32; cpu, float64]"
    assert group == f"  3 checks: {reason}"
    assert sorted(names.strip().split(", ")) == sorted(several)
    with pytest.raises(NodeFailed) as caught:
        check_node(RaisesByShape, traits=ALL, only=several[:2], inputs=torch.zeros, dtypes=[torch.float32])
    assert "2 checks: raised KeyError: 'no table for 7 steps' [cpu, float32]\n" in str(caught.value)


class Drops(Toy):
    def sequence(self, x, state, lengths):
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(Drops.calls)
            Drops.calls += 1
            return super().sequence(nn.functional.dropout(x), state, lengths)

    calls = 0


def test_what_others_may_follow_from_is_told_first():
    with pytest.raises(NodeFailed) as caught:
        check_node(Drops, traits=ALL, only=["odd_sizes", "rows_do_not_mix", "arguments_are_not_changed"])
    lines = str(caught.value).splitlines()
    assert caught.value.failures[0].check != "arguments_are_not_changed"
    start = "  arguments_are_not_changed: the same call again, after another one, gives another answer "
    assert lines[1].startswith(f"{start}(a state kept outside `state`, dropout?): ")
    assert lines[1].endswith("[cpu, float64] (others may follow from it)")
    with pytest.raises(NodeFailed) as caught:
        check_node(Drops, traits=ALL, only=["arguments_are_not_changed"])
    assert "others" not in str(caught.value)


class GroupsShareADecay(Toy):
    def __init__(self, *, channels, **options):
        super().__init__(channels=channels, **options)
        self.groups = nn.Parameter(torch.linspace(0.5, 1.5, -(-channels // 4)))

    def sequence(self, x, state, lengths):
        gains = self.groups.to(x.dtype).repeat_interleave(4)[: x.shape[2]]
        return super().sequence(x * gains.view(-1, *(1,) * (x.dim() - 3)), state, lengths)


class FourChannelsOnly(Toy):
    def __init__(self, *, channels, **options):
        if channels != 4:
            raise ValueError("channels must be 4")
        super().__init__(channels=channels, **options)


@pytest.mark.parametrize(("node", "channels"), [(GroupsShareADecay, 5), (FourChannelsOnly, 4)])
def test_channels_that_share_parameters_or_are_of_one_number_are_no_fault(node, channels):
    check_node(
        node, traits={**ALL, "steps": False, "carries_state": False}, channels=channels, only=["channels_are_alike"]
    )


def test_parameters_of_a_module_inside_are_on_the_device_of_the_input():
    class Inside(Toy):
        def __init__(self, *, channels, **options):
            super().__init__(channels=channels, **options)
            self._parameters.clear()
            self.inner = nn.Linear(channels, channels)

    with pytest.raises(ValueError, match="the parameters are on meta, the input on cpu"):
        Inside(channels=4).to("meta").functional(torch.zeros(3, 2, 4))


def test_a_check_is_a_function_of_a_subject():
    subject = Subject(make=WindowOffByOne, traits=Traits(**ALL))
    with pytest.raises(CheckFailed, match=r"^steps_equal_sequence: ") as caught:
        sequence.steps_equal_sequence(subject)
    assert caught.value.check == "steps_equal_sequence"
    sequence.pieces_equal_whole(Subject(make=Toy, traits=Traits(**ALL)))
    assert CHECKS["steps_equal_sequence"].summary.startswith("The single-step form")


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_says_what_it_checks(check):
    assert len(check.summary) > 20
    page = Path(__file__).parents[2] / "docs" / "conformance.md"
    assert f"| `{check.name}` | {check.needs}" in page.read_text(encoding="utf-8")


def test_what_is_not_run_has_a_reason():
    report = check_node(Toy, traits=ALL, only=["compiles", "odd_sizes"], skip={"compiles": "takes long"})
    assert report.skipped == {"compiles": "takes long"}
    assert all(line.startswith("odd_sizes") for line in report.passed)
    with pytest.raises(NodeFailed, match="any_length"):
        check_node(Toy, traits={**ALL, "any_length": False}, length=7, only=["any_length_as_declared"])
    report = check_node(Toy, traits={**ALL, "steps": False}, only=["steps_equal_sequence"])
    assert report.skipped == {"steps_equal_sequence": "steps is not declared"}


def test_a_name_that_is_no_check_is_refused():
    with pytest.raises(TypeError, match="did you mean 'odd_sizes'"):
        check_node(Toy, traits=ALL, only=["odd_size"])
    with pytest.raises(TypeError, match="no check 'pading'"):
        check_node(Toy, traits=ALL, skip={"pading": "it has none"})
    with pytest.raises(TypeError, match="length"):
        check_node(Toy, traits=ALL, length=7)


def test_a_node_that_never_fires_proves_nothing():
    class Silent(Toy):
        def fire(self, h, axis):
            return super().fire(h - 1e6, axis)

    with pytest.raises(NodeFailed, match="hand in inputs"):
        check_node(Silent, traits=ALL, only=["odd_sizes"])


def test_inputs_can_be_handed_in():
    seen = []

    def inputs(shape):
        seen.append(shape)
        return torch.rand(shape, dtype=torch.float64) * 0.7

    check_node(Toy, traits=ALL, only=["rows_do_not_mix"], inputs=inputs, channels=3)
    assert seen
    assert all(shape[2] == 3 for shape in seen)


def test_backends_are_asked_for_one_by_one():
    report = check_node(Toy, traits=ALL, only=["backend_really_runs"], backends=["auto", "torch"])
    assert {line.split("[")[1].split(",")[0] for line in report.passed} == {"backend auto", "backend torch"}


def test_spikes_may_differ_within_the_margin_only():
    """A threshold that the two forms see a hair apart passes
    if an input change of the margin explains it.
    """

    class Hair(Toy):
        shift = 1e-7

        def fire(self, h, axis):
            return super().fire(h + self.shift * (axis - 1), axis)

    class Wide(Hair):
        shift = 1e-3

    def at_the_threshold(shape):  # equal steps of .3, the threshold: the potential stays there
        x = torch.full(shape, 0.3, dtype=torch.float64)
        x[:, :, -1] += 0.5
        return x

    options = {"inputs": at_the_threshold, "jitter": 0.0, "flips": 1.0}
    single = Subject(make=Hair, traits=Traits(**ALL), **options).at(torch.float32)
    sequence.steps_equal_sequence(single)
    strict = Subject(make=Hair, traits=Traits(**ALL), **{**options, "flips": 0.0}).at(torch.float32)
    with pytest.raises(CheckFailed, match="near a threshold; 1 may"):
        sequence.steps_equal_sequence(strict)
    with pytest.raises(CheckFailed, match="away from a threshold"):
        sequence.steps_equal_sequence(Subject(make=Wide, traits=Traits(**ALL), **options).at(torch.float32))


def test_refusals_must_tell():
    def refuse():
        raise ValueError("built for 3 channels, got 4")

    assert_refuses(refuse, "channels", 3, 4)
    with pytest.raises(AssertionError, match="does not say 5"):
        assert_refuses(refuse, "channels", 3, 5)
    with pytest.raises(AssertionError, match="not refused"):
        assert_refuses(lambda: None, "channels")
    with pytest.raises(AssertionError, match="raised KeyError"):
        assert_refuses(lambda: {}["a"], "channels")
    assert issubclass(UserError, Exception)


def test_unwritten_memory():
    x = torch.ones(3, dtype=torch.float32)
    with unwritten_memory_is_nan():
        fresh = [torch.empty(3), torch.empty_like(x), x.new_empty(3), torch.empty_strided((3,), (1,))]
        assert all(bool(one.isnan().all()) for one in fresh)
        assert torch.empty(2, dtype=torch.int32).tolist() == [2**31 - 1] * 2
    assert torch.empty is not None
    assert not torch.zeros(3).isnan().any()


def test_helpers_for_properties():
    node, x = Toy(channels=5), torch.randn(9, 2, 5)
    v = potentials(node, x)
    assert v.shape == x.shape
    assert float(v.detach().abs().max()) <= float(x.abs().max())  # a convex combination of inputs
    assert not node.store_v_seq
    reached = influence(node, x)
    assert torch.equal(reached, torch.ones(9, 9, dtype=torch.bool).tril())
    spikes = torch.tensor([0, 1, 1, 1, 0, 1, 1.0])[:, None].repeat(1, 2)
    spikes[3, 1] = 0
    assert longest_run(spikes) == 3
    assert longest_run(torch.zeros(4, 0)) == 0


def test_half_precision_check_uses_single_precision_inside():
    numerics.half_precision(Subject(make=Toy, traits=Traits(**ALL)))


def test_what_grows_is_named_and_what_is_computed_once_is_no_fault():
    class Caches(Toy):
        def __init__(self, **options):
            super().__init__(**options)
            self.kept = {}

        def sequence(self, x, state, lengths):
            self.kept.setdefault(tuple(x.shape), torch.zeros(x.shape))
            # with its graph, which ends at the state
            self.fired, after, h = super().sequence(x, state, lengths)
            return self.fired.clone(), after, h

    states.nothing_piles_up(Subject(make=Caches, traits=Traits(**ALL)))
    with pytest.raises(CheckFailed, match=r"same input: 'part.seen' from 150 to 225 entries \[cpu"):
        states.nothing_piles_up(Subject(make=TensorGrowsInAPart, traits=Traits(**ALL)))


def inexact(node):
    with pytest.raises(CheckFailed) as caught:
        numerics.gradients_are_exact(Subject(make=node, traits=Traits(**ALL)))
    return str(caught.value)


class CutThreshold(Toy):
    def fire(self, h, axis):
        return super().fire(h, axis) + 0 * self.threshold.sum() - (self.threshold**2).sum().detach()


class CutState(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes + state["last"].sum().detach(), after, h


class CutFinalState(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "last": after["last"] + x.sum() - x.sum().detach()}, h


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (CutThreshold, "the gradient of the spikes with respect to parameter 'threshold' is "),
        (CutState, "the gradient of the spikes with respect to state 'last' is "),
        (CutFinalState, "the gradient of the final state 'last' with respect to x is "),
    ],
)
def test_a_gradient_that_is_not_exact_is_told_by_name(node, message):
    text = inexact(node)
    assert f"gradients_are_exact: whole: along one direction, {message}" in text
    assert re.search(r"is -?[\d.e-]+, not -?[\d.e-]+ \[cpu, float64\]$", text)


def test_a_gradient_that_is_left_out_on_purpose_is_said_to_be():
    text = inexact(build.part("neuron", {"type": "lif", "detach_reset": True}))
    assert "; detach_reset is set: a gradient that is left out on purpose (a detached reset) differs too: skip" in text
    assert "on purpose" not in inexact(CutThreshold)
