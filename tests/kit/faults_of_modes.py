"""Faults of one way to call a node: ties, layouts, eval, new weights, step modes; side effects."""

import random
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from planted import fault
from toy_node import Toy, over

# Ways to call it


class Ties(Toy):
    """Fires at the threshold itself in one form, only above it in that whose axis is `above`."""

    above = 1

    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        return spikes * (h != over(self.threshold, h, axis)) if axis == self.above else spikes


@fault("ties_fire_alike", says=r"a sequence of one step fires, and a single step does the opposite, for \d+ of \d+ inp")
class TiesFireInTheSequenceOnly(Ties):
    pass


@fault("ties_fire_alike", says=r"a sequence of one step is silent, and a single step does the opposite, for \d+ of \d+")
class TiesFireInSingleStepsOnly(Ties):
    above = 2


@fault("memory_layouts", says=r"whole, x, state and mask batch first in memory, x \[7, 3, 5\]")
class TakesStridesOfTheMaskForGranted(Toy):
    def functional(self, x, state=None, mask=None):
        if mask is not None:
            mask = mask.as_strided(mask.shape, torch.empty(mask.shape).stride(), mask.storage_offset())
        return super().functional(x, state, mask)


@fault("memory_layouts", says=r"stepwise, x, state batch first in memory, x \[7, 3, 5\]")
class SingleStepsTakeStridesForGranted(Toy):
    def step(self, x, state):
        return super().step(x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset()), state)


@fault("channels_on_another_axis", says=r"whole, channels on axis -1 against axis 2, x \[7, 2, 5, 3\]: gradient of x")
class MovesChannelsOutsideTheGraph(Toy):
    def advance(self, x, state, mask, *, single):
        return super().advance(x if self.axis == 2 else x.detach(), state, mask, single=single)


@fault("channels_on_another_axis", says=r"step of \[T, B, ...\] with the channels on axis 4, got shape \(2, 3, 5\)")
class CountsTheAxisOfAStepFromItsBatch(Toy):
    def advance(self, x, state, mask, *, single):
        declared = self._axis
        self._axis += single and declared > 0
        try:
            return super().advance(x, state, mask, single=single)
        finally:
            self._axis = declared


@fault("eval_changes_nothing", says=r"stepwise, eval\(\) and no_grad against train\(\), x \[6, 3, 5\]")
class OtherSingleStepsInEvalWithoutGrad(Toy):
    def fire(self, h, axis):
        moved = axis == 1 and not self.training and not torch.is_grad_enabled()
        return super().fire(h - 0.2 if moved else h, axis)


class Caches(Toy):
    """Keeps the threshold that it saw first, when `keeps` says so."""

    kept = None

    def keeps(self):
        return not self.training

    def fire(self, h, axis):
        if self.keeps():
            self.kept = self.threshold.detach().clone() if self.kept is None else self.kept
        else:
            self.kept = None
        threshold = self.threshold if self.kept is None else self.threshold - self.threshold.detach() + self.kept
        spikes = self.surrogate_function(h - over(threshold, h, axis))
        return spikes.masked_fill(h.isnan(), torch.nan)


@fault(
    "weights_may_change", says=r"of a used node in eval\(\), after its weights were updated in place, against a fresh"
)
class StaleCacheInEval(Caches):
    pass


@fault("weights_may_change", says=r"of a used node in eval\(\) and no_grad, after its weights were assigned to .data")
class CacheThatCountsVersions(Caches):
    version = None

    def keeps(self):
        seen, self.version = self.version, self.threshold._version
        return not self.training and not torch.is_grad_enabled() and seen == self.version


@fault("weights_may_change", says=r"of a used node in train\(\), after load_state_dict, against a fresh one")
class LoadsWeightsBeforeUseOnly(Toy):
    used = False

    def functional(self, x, state=None, mask=None):
        self.used = True
        return super().functional(x, state, mask)

    def load_state_dict(self, state_dict, *args, **options):
        return None if self.used else super().load_state_dict(state_dict, *args, **options)


@fault("weights_may_change", says=r"after load_state_dict with assign=True, against a fresh one")
class KeepsTheParameterThatItHadFirst(Toy):
    first: ClassVar = WeakKeyDictionary()

    def fire(self, h, axis):
        threshold = self.first.setdefault(self, self.threshold)
        spikes = self.surrogate_function(h - over(threshold, h, axis))
        return spikes.masked_fill(h.isnan(), torch.nan)


@fault("forward_wraps_functional", says=r"a sequence, two single steps, a sequence, x \[6, 3, 5\], against functional")
class ChangeOfStepModeForgetsTheState(Toy):
    @property
    def step_mode(self):
        return Toy.step_mode.fget(self)

    @step_mode.setter
    def step_mode(self, value):
        changes = "_step_mode" in self.__dict__ and value != self._step_mode
        Toy.step_mode.fset(self, value)
        if changes:
            self.reset()


@fault(
    "pieces_equal_whole", says=r"pieces of \(3, 2, 2\), the second in single steps, against the whole, x \[7, 3, 5\]"
)
class StatesOfTheTwoModesDiffer(Toy):
    """A single step takes the state of a sequence for one of its own kind."""

    def step(self, x, state):
        spikes, after, h = super().step(x, {**state, "h": -state["h"]})
        return spikes, {**after, "h": -after["h"]}, h


@fault("potentials_are_stored", says=r"with store_v_seq against without, x \[6, 3, 5\]: gradient of x")
class GradientCutWhilePotentialsAreStored(Toy):
    def fire(self, h, axis):
        return super().fire(h.detach() if self.store_v_seq else h, axis)


@fault("potentials_are_stored", says=r"v_seq is detached: no gradient goes from it to x \[6, 3, 5\]")
class PotentialsAreDetached(Toy):
    def advance(self, x, state, mask, *, single):
        spikes, after, v = super().advance(x, state, mask, single=single)
        return spikes, after, v.detach()


@fault("potentials_are_stored", says=r"v_seq of a sequence, x \[6, 2, 5, 4\], against its places moved into the batch")
class PotentialsReversedWithATrailingAxis(Toy):
    def advance(self, x, state, mask, *, single):
        spikes, after, v = super().advance(x, state, mask, single=single)
        return spikes, after, v.flip(-1) if x.dim() + single > 3 else v


@fault("potentials_are_stored", says=r"v_seq of single steps, x \[6, 3, 5\]: gradient of x, against that of a sequence")
class PotentialsOfEarlierStepsAreDetached(Toy):
    def _keep(self, v, single):
        self.v_seq = None if self.v_seq is None else self.v_seq.detach()
        super()._keep(v, single)


# Large numbers


class Sigmoid(torch.autograd.Function):
    """Its gradient e / (1 + e)^2 with e = exp(-a), infinite by infinite far from 0."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        e = (-ctx.saved_tensors[0]).exp()
        return grad * e / (1 + e) ** 2


@fault(
    "large_inputs", says=r"times the usual size, x \[9, 8, 5\]: \d+ of 360 numbers of the gradient of x are not finite"
)
class NanGradientsForLargeInputs(Toy):
    def decay(self, x, before, axis):
        w = self.weight.to(x.dtype)
        return Sigmoid.apply(over(w[:, 0], x, axis) * before + over(w[:, 1], x, axis) * x)


@fault("steps_equal_sequence", says="multi-step against single-step, initial state")
class DecayOfSequencesIsBounded(Toy):
    def decay(self, x, before, axis):
        return super().decay(x.clamp(-6, 6), before.clamp(-6, 6), axis) if axis == 2 else super().decay(x, before, axis)


@fault("large_inputs", says=r"inputs of 0 times the usual size, x \[9, 8, 5\]: \d+ of 360 numbers of the gradient of x")
class NanGradientsForZeros(Toy):
    def decay(self, x, before, axis):
        return super().decay(x + 0 * x.abs().sqrt(), before, axis)


# What is left behind


@fault("nothing_global_changes", says=r"changes the state of torch's global random generator")
class DrawsFromTheGlobalGenerator(Toy):
    def decay(self, x, before, axis):
        torch.rand(1)
        return super().decay(x, before, axis)


@fault("nothing_global_changes", says=r"functional, whole, in train\(\), changes torch.get_default_dtype\(\)")
class SetsTheDefaultDtype(Toy):
    def sequence(self, x, state, lengths):
        torch.set_default_dtype(x.dtype)
        return super().sequence(x, state, lengths)


@fault("nothing_global_changes", says=r"functional, stepwise, in train\(\) and no_grad, changes torch.is_grad_enabled")
class TurnsGradientsOn(Toy):
    def step(self, x, state):
        torch.set_grad_enabled(True)
        return super().step(x, state)


@fault("nothing_global_changes", says=r"changes: the backward pass, in eval\(\), changes the state of random's")
class DrawsInTheBackwardPassInEval(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        if spikes.requires_grad and not self.training:
            spikes.register_hook(lambda grad: random.random() * 0 * grad + grad)
        return spikes


@fault("state_is_plain_tensors", says=r"init_state hands out the same memory again, x \[5, 3, 5\]: h, last")
class OneInitialStateForAllCalls(Toy):
    kept = None

    def init_state(self, x):
        if self.kept is None or self.kept["h"].shape != x.shape[self.step_mode == "m" :]:
            self.kept = super().init_state(x)
        return self.kept


@fault("state_is_plain_tensors", says=r"functional hands out the same memory again, x \[5, 3, 5\]: h")
class FinalStateInABufferOfTheNode(Toy):
    kept = None

    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if self.kept is None or self.kept.shape != after["h"].shape:
            self.kept = torch.empty_like(after["h"])
        self.kept.copy_(after["h"].detach())
        return spikes, {**after, "h": self.kept}


@fault("arguments_are_not_changed", says=r"the node's 'threshold'( after the call| was written to)")
class AdaptsItsThreshold(Toy):
    def functional(self, x, state=None, mask=None):
        with torch.no_grad():
            self.threshold.clamp_(0, 1)
        return super().functional(x, state, mask)
