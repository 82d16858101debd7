"""Faults planted in copies of BPSN, each caught by the check of the kit that names it;
the copy without one passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from sj_lang_neurons import BPSN
from sj_lang_neurons.bpsn.inputs import BPSNInputs, BPSNOutputs, BPSNTerms, outputs_of, terms_of
from sj_lang_neurons.bpsn.torch import potential
from sj_lang_neurons.firing import Firing
from test_bpsn import equations, stepped
from torch import Tensor

from sj_lang import plugins
from sj_lang.neuron import Kernel, State
from sj_lang.testing import CHECKS, NodeFailed, check_node

pytestmark = pytest.mark.any_line

FORWARD = {"causal": True, "steps": True, "carries_state": True}


class Copy(BPSN):
    """What the faults are planted in: R, forward, so that every check applies."""

    options: ClassVar[dict[str, Any]] = {"variant": "R", "direction": "forward"}

    def __init__(self, *, channels: int, **given: Any) -> None:
        super().__init__(channels=channels, **{**self.options, **given})


class Both(Copy):
    options: ClassVar[dict[str, Any]] = {"variant": "R", "direction": "both"}


class Counting(Copy):
    options: ClassVar[dict[str, Any]] = {"variant": "K", "direction": "forward"}


@dataclass(frozen=True)
class Fault:
    node: type[Copy]
    check: str
    declared: dict[str, bool]


FAULTS: dict[str, Fault] = {}


def fault(check: str, **declared: bool) -> Callable[[type[Copy]], type[Copy]]:
    def plant(node: type[Copy]) -> type[Copy]:
        FAULTS[node.__name__] = Fault(node, check, declared)
        return node

    return plant


def kernel(change: Callable[[BPSNTerms], BPSNTerms]) -> dict[str, Kernel]:
    """Kernels of a node whose one kernel computes with other terms."""

    def run(inputs: BPSNInputs, firing: Firing) -> BPSNOutputs:
        terms = change(terms_of(inputs))
        u, after = potential(terms)
        return outputs_of(inputs, terms, firing(u), after)

    return {"torch": Kernel(run)}


# The equations


@fault("matches_reference")
class FutureForgetsAsThePast(Both):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(lb=terms.lf))


@fault("matches_reference")
class LateralShareNotSquashed(Both):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(rho=terms.rho.logit()))


@fault("matches_reference")
class SumsInPlaceOfMeans(Both):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(normalised=False))


@fault("matches_reference")
class ItsOwnCurrentIsInThePast(Copy):
    """sum over j <= t in place of j < t."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        return super().step(x, self._taken_in(x, state))

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        x, state = self.fitted(self.kernels["torch"], x, state)
        steps = []
        for x_t in x.unbind(0):
            spikes, state, h = self.step(x_t, state)
            steps.append((spikes, h))
        return torch.stack([s for s, _ in steps]), state, torch.stack([h for _, h in steps])

    def _taken_in(self, x: Tensor, state: State) -> State:
        assert self.decay_f is not None
        lf = self.decay_f.to(x.dtype).sigmoid()
        return {"numerator": lf * state["numerator"] + x, "denominator": lf * state["denominator"] + 1}


@fault("matches_reference")
class GainOfAMissingSideStays(Copy):
    """At the first token gf is in the lateral sum: its past is a token of size 0."""

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        state = self.init_state(x) if state is None else state
        return super().functional(x, {**state, "denominator": state["denominator"].clamp(min=1.0)}, mask)


@fault("matches_reference")
class CurrentOfKNotClipped(Counting):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        kappa, self.kappa = self.kappa, 0.999
        run = super().sequence(x, state, lengths)
        self.kappa = kappa
        return run


@fault("gradients_are_exact")
class NoGradientThroughTheLateralShare(Copy):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(rho=terms.rho.detach()))


@fault("gradients_are_exact")
class NoGradientThroughTheDecayOfTheFuture(Both):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(lb=terms.lb.detach()))


@fault("steps_equal_sequence")
class ThresholdOfSingleStepsIsHigher(Copy):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        _, after, h = super().step(x, state)
        return super().step(x - 0.05, state)[0], after, h


# State


@fault("pieces_equal_whole")
class DenominatorNotCarried(Copy):
    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        spikes, after = super().functional(x, state, mask)
        return spikes, {**after, "denominator": torch.zeros_like(after["denominator"])}


@fault("pieces_equal_whole")
class CountBeginsAnew(Counting):
    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        spikes, after = super().functional(x, state, mask)
        return spikes, {**after, "count": torch.zeros_like(after["count"])}


@fault("pieces_equal_whole")
class GradientOfTheCarriedDenominatorDropped(Copy):
    kernels: ClassVar[dict[str, Kernel]] = kernel(lambda terms: terms._replace(denominator=terms.denominator.detach()))


@fault("state_is_plain_tensors")
class NumeratorIsAView(Copy):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "numerator": after["numerator"].view(x.shape[1:])}, h


@fault("arguments_are_not_changed")
class NumeratorUpdatedInPlace(Copy):
    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        spikes, after = super().functional(x, state, mask)
        if state is not None:
            state["numerator"].copy_(after["numerator"].detach())
        return spikes, after


# Padding


@fault("padding_is_removal")
class PaddingCountsAsTokens(Both):
    """The junk is gone, but the leak runs on over it."""

    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        if mask is None:
            return super().functional(x, state)
        off = ~mask.view(mask.shape + (1,) * (x.dim() - mask.dim()))
        spikes, after = super().functional(x.masked_fill(off, 0), state)
        return spikes.masked_fill(off, 0), after


@fault("padding_is_removal")
class FutureBeginsAtTheLastRow(Both):
    """The future of a shorter sequence is scanned through what is after its end."""

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        return super().sequence(x, state, None)


@fault("no_valid_step")
class TheDenominatorLeaksWithoutTokens(Copy):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "denominator": after["denominator"] * 0.9}, h


@fault("no_valid_step")
class ACountThatIsKeptHasNoGradient(Counting):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "count": after["count"].detach()}, h


# Kernels, declarations, numbers


@fault("backend_really_runs")
class TheReferenceInPlaceOfTheKernel(Both):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, h = equations(self, x)
        return spikes, {}, h


@fault("output_is_fully_written")
class AColumnIsNotWritten(Both):
    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        spikes, after, h = super().sequence(x, state, lengths)
        out = torch.empty_like(spikes)
        out[:, :, 1:] = spikes[:, :, 1:]
        return out, after, h


@fault("causal_as_declared", causal=True)
class BothAndCallsItselfCausal(Both):
    pass


@fault("steps_as_declared", steps=True)
class BothAndSaysThatItSteps(Both):
    pass


@fault("nan_stays_visible")
class HeavisideHidesNan(Copy):
    def _run(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor]:
        spikes, after, h = super()._run(x, state, lengths)
        return torch.where(spikes.isnan(), 0, spikes), after, h


@fault("half_precision")
class StateInThePrecisionOfTheInput(Copy):
    def functional(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        spikes, after = super().functional(x, state, mask)
        return spikes, {name: value.to(x.dtype) for name, value in after.items()}


def given(node: type[Copy], declared: dict[str, bool]) -> dict[str, Any]:
    forward = node.options["direction"] == "forward"
    return {
        "traits": {**plugins.get("neuron", "bpsn").traits, **(FORWARD if forward else {}), **declared},
        "reference": stepped if forward else lambda node, x, state: (equations(node, x)[0], {}),
    }


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_the_check_that_names_it(name: str) -> None:
    planted = FAULTS[name]
    with pytest.raises(NodeFailed) as caught:
        check_node(planted.node, only=[planted.check], **given(planted.node, planted.declared))
    assert {failure.check for failure in caught.value.failures} == {planted.check}
    healthy = next(c for c in planted.node.__mro__ if c in (Copy, Both, Counting))
    check_node(healthy, only=[planted.check], **given(healthy, {}))


def test_there_are_many() -> None:
    assert len(FAULTS) >= 20
    assert {planted.check for planted in FAULTS.values()} <= set(CHECKS)
