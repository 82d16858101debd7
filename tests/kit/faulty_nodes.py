"""Faults, each planted in a copy of the toy node, with the check that must name it.

`@fault("check")` on a subclass of Toy; other declarations than "everything" are given beside it.
"""

from copy import copy
from typing import ClassVar

import torch
from toy_node import Toy, keep, over, scan

from sj_lang.neuron import Kernel

FAULTS = {}


def fault(check, **declared):
    def plant(node):
        FAULTS[node.__name__] = (node, check, declared)
        return node

    return plant


# One step at a time, and in pieces


@fault("pieces_equal_whole")
class CarriesThePotentialBeforeLast(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "h": h[-2].clone() if len(h) > 1 else state["h"]}, h


@fault("pieces_equal_whole")
class StartsEachPieceAnew(Toy):
    def functional(self, x, state=None, mask=None):
        return super().functional(x, None if self.step_mode == "m" else state, mask)


@fault("steps_equal_sequence")
class WindowOffByOne(Toy):
    def sequence(self, x, state, lengths):
        early = torch.cat((torch.zeros_like(x[:1]), state["last"][None], x))[: len(x)]
        alpha = self.decay(x, early, axis=2)
        spikes, after, _ = super().sequence(x, state, lengths)
        return self.fire(scan(alpha, (1 - alpha) * x, state["h"]), axis=2), after, spikes


@fault("steps_equal_sequence")
class ThresholdShiftedInTheSequence(Toy):
    def fire(self, h, axis):
        return super().fire(h + 0.02 * (axis - 1), axis)


@fault("steps_equal_sequence")
class NoGradientThroughAlphaInTheSequence(Toy):
    def decay(self, x, before, axis):
        alpha = super().decay(x, before, axis)
        return alpha if axis == 1 else alpha.detach()


@fault("steps_equal_sequence")
class GradientOfInitialStateDropped(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x, {name: value.detach() for name, value in state.items()}, lengths)


@fault("gradients_are_exact")
class NoGradientThroughAlpha(Toy):
    def decay(self, x, before, axis):
        return super().decay(x, before, axis).detach()


@fault("gradients_are_exact")
class GradientOfThresholdDropped(Toy):
    def fire(self, h, axis):
        return self.surrogate_function(h - over(self.threshold, h, axis).detach())


@fault("gradients_are_exact")
class HalfTheGradientThroughAlpha(Toy):
    def decay(self, x, before, axis):
        alpha = super().decay(x, before, axis)
        return (alpha + alpha.detach()) / 2


@fault("pieces_equal_whole")
class FinalStateHasNoGradient(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, {name: value.detach() for name, value in after.items()}


@fault("steps_equal_sequence")
class CarryLostBetweenChunks(Toy):
    def sequence(self, x, state, lengths):
        if len(x) <= 64:
            return super().sequence(x, state, lengths)
        first, after, _ = super().sequence(x[:64], state, None)
        second, after, h = super().sequence(x[64:], {**after, "h": torch.zeros_like(after["h"])}, lengths)
        return torch.cat((first, second)), after, h


@fault("steps_equal_sequence")
class PlacesReversedInSingleSteps(Toy):
    def step(self, x, state):
        spikes, after, h = super().step(x, state)
        return spikes, {**after, "h": after["h"].flip(-1)} if x.dim() > 2 else after, h


@fault("pieces_equal_whole")
class PlacesReversedInTheFinalState(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, {**after, "h": after["h"].flip(-1)} if x.dim() > 3 else after


@torch.library.custom_op("sj_lang_toy::bad_scan", mutates_args=())
def bad_scan(decay: torch.Tensor, u: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return scan(decay, u, h)


def unshifted(ctx, grad):
    decay, h, out = ctx.saved_tensors
    g = scan(decay.flip(0), grad.flip(0), torch.zeros_like(h)).flip(0)
    return g * torch.cat((h[None], out[:-1])), g, decay[0] * g[0]


bad_scan.register_fake(lambda decay, u, h: torch.empty_like(u))
bad_scan.register_autograd(unshifted, setup_context=keep)


@fault("steps_equal_sequence")
class BackwardScanWithoutTheShift(Toy):
    kernels: ClassVar = {"torch": Kernel(bad_scan)}


@fault("matches_reference")
class AnotherEquation(Toy):
    def decay(self, x, before, axis):
        return super().decay(x, before, axis) ** 2


@fault("rows_do_not_mix")
class BatchMixed(Toy):
    def decay(self, x, before, axis):
        return super().decay(x - x.mean(axis - 1, keepdim=True), before, axis)


@fault("rows_do_not_mix")
class PlacesMixed(Toy):
    def decay(self, x, before, axis):
        return super().decay(x.mean(-1, keepdim=True) if x.dim() > axis + 1 else x, before, axis)


# Padding


@fault("padding_is_removal")
class MaskIgnored(Toy):
    def functional(self, x, state=None, mask=None):
        if mask is None:
            return super().functional(x, state)
        clean = x.masked_fill(~mask[..., None], 0)
        spikes, after = super().functional(clean, state)
        return spikes.masked_fill(~mask[..., None], 0), after


@fault("padding_is_removal")
class MaskIgnoredInTheBackwardPass(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if mask is not None:
            leak = x.nan_to_num(0, 0, 0).masked_fill(mask[..., None], 0)
            spikes = spikes + leak - leak.detach()
        return spikes, after


@fault("padding_is_removal")
class MaskIgnoredInImages(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x, state, lengths if x.dim() == 3 else None)


@fault("padding_is_removal")
class JunkTimesZero(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes if mask is None else spikes + 0 * x, after


@fault("padding_is_removal")
class StateDecaysThroughPadding(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "h": h[-1].clone()}, h


@fault("no_valid_step")
class NoValidStepClearsTheState(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if mask is not None and self.step_mode == "m":
            after = {name: value * mask.any(0)[:, None] for name, value in after.items()}
        return spikes, after


@fault("mask_in_steps_and_pieces")
class MaskIgnoredInSingleSteps(Toy):
    def functional(self, x, state=None, mask=None):
        if self.step_mode == "m" or mask is None:
            return super().functional(x, state, mask)
        return super().functional(x.masked_fill(~mask[:, None], 0), state)


# What it declares


@fault("causal_as_declared")
class LooksAhead(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x + 0.5 * torch.cat((x[1:], x[:1])), state, lengths)


@fault("causal_as_declared")
class GradientFromTheFuture(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        later = torch.cat((x[1:], x[:1]))
        return spikes + later - later.detach(), after, h


@fault("causal_as_declared", causal=False)
class CausalAndDeniesIt(Toy):
    pass


@fault("steps_as_declared")
class CannotStep(Toy):
    def supported_step_mode(self):
        return ("m",)


@fault("steps_as_declared", steps=False)
class StepsAndDeniesIt(Toy):
    pass


@fault("carries_state_as_declared", carries_state=False)
class CarriesStateAndDeniesIt(Toy):
    pass


@fault("takes_mask_as_declared", takes_mask=False)
class SilentAboutTheMaskItIgnores(Toy):
    def functional(self, x, state=None, mask=None):
        return super().functional(x, state)


@fault("any_length_as_declared")
class LearnedPositions(Toy):
    def sequence(self, x, state, lengths):
        positions = torch.linspace(0, 1, 16, dtype=x.dtype)[:, None, None]
        return super().sequence(x + positions[: len(x)], state, lengths)


# States and the life cycle


@fault("state_is_plain_tensors")
class StateIsAView(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "h": h[-1]}, h


@fault("state_is_plain_tensors")
class StateWithTheBatchLast(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, {name: value.movedim(0, -1).clone() for name, value in after.items()}


@fault("arguments_are_not_changed")
class StateMutated(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if state is not None:
            state["h"].copy_(after["h"].detach())
        return spikes, after


@fault("arguments_are_not_changed")
class StatesReplacedInTheDict(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if state is not None:
            state.update(after)
        return spikes, after


@fault("arguments_are_not_changed")
class InputMutated(Toy):
    def functional(self, x, state=None, mask=None):
        return super().functional(x.detach().clamp_(max=1.0), state, mask)


@fault("arguments_are_not_changed")
class HiddenState(Toy):
    def sequence(self, x, state, lengths):
        self.calls = getattr(self, "calls", 0) + 1
        return super().sequence(x + 0.1 * self.calls, state, lengths)


@fault("forward_wraps_functional")
class ForwardForgetsTheMask(Toy):
    def forward(self, x, mask=None):
        return super().forward(x)


@fault("forward_wraps_functional")
class SingleStepsForgetTheState(Toy):
    def single_step_forward(self, x, mask=None):
        self.reset()
        return super().single_step_forward(x, mask)

    def forward(self, x, mask=None):
        return self.single_step_forward(x, mask) if self.step_mode == "s" else super().forward(x, mask)


@fault("monitors_record")
class HooksAreNotCalled(Toy):
    def __call__(self, x, mask=None):
        return self.forward(x, mask)


@fault("potentials_are_stored")
class StoresTheSpikes(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, _ = super().sequence(x, state, lengths)
        return spikes, after, spikes


@fault("reset_forgets")
class ResetForgotten(Toy):
    def reset(self):
        pass


@fault("detach_cuts")
class DetachDoesNothing(Toy):
    def detach(self):
        pass


@fault("eval_changes_nothing")
class NoGradientInEval(Toy):
    def fire(self, h, axis):
        return super().fire(h if self.training else h.detach(), axis)


@fault("copies_are_independent")
class DeepcopySharesParameters(Toy):
    def __deepcopy__(self, memo):
        return copy(self)


@fault("copies_are_independent")
class CannotBePickled(Toy):
    def __init__(self, **given):
        super().__init__(**given)
        self.gain = lambda x: x


@fault("state_dict_is_complete")
class ParameterLeftOutOfStateDict(Toy):
    def state_dict(self, *args, **given):
        return {name: value for name, value in super().state_dict(*args, **given).items() if name != "threshold"}


@fault("state_dict_is_complete")
class WeightIsNoParameter(Toy):
    def __init__(self, **given):
        super().__init__(**given)
        weight = self.weight.detach()
        del self.weight
        self.weight = weight


@fault("moves")
class MemoriesFollowToBfloat16(Toy):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, value in self.named_memories():
            if value is not None:
                setattr(self, name, fn(value))
        return self


# Kernels


@fault("backend_really_runs")
class KernelNotCalled(Toy):
    def sequence(self, x, state, lengths):
        alpha, h, potentials = self.decay(x, torch.cat((state["last"][None], x[:-1])), axis=2), state["h"], []
        for a, x_t in zip(alpha, x, strict=True):
            h = a * h + (1 - a) * x_t
            potentials.append(h)
        return self.fire(torch.stack(potentials), axis=2), {"h": h, "last": x[-1].clone()}, None


@fault("backend_really_runs")
class FallsBackSilently(Toy):
    @property
    def backend(self):
        return "auto"

    @backend.setter
    def backend(self, value):
        pass


@fault("output_is_fully_written")
class LastRowNotWritten(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        out = torch.empty_like(spikes)
        out[..., :-1] = spikes[..., :-1]
        return out


@torch.library.custom_op("sj_lang_toy::wrong_fake", mutates_args=())
def wrong_fake(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@wrong_fake.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[:-1])


wrong_fake.register_autograd(lambda ctx, grad: grad)


@fault("operators_are_sound")
class OperatorWithAWrongFake(Toy):
    def decay(self, x, before, axis):
        return super().decay(wrong_fake(x), before, axis)


@fault("compiles")
class BranchesOnValues(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x if float(x.sum()) > 0 else x + 0, state, lengths)


# Numbers


@fault("spikes_are_levels")
class SpikesScaled(Toy):
    def fire(self, h, axis):
        return 0.5 * super().fire(h, axis)


@fault("half_precision")
class StateInTheInputsPrecision(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, {name: value.to(x.dtype) for name, value in after.items()}


@fault("half_precision")
class AutocastReachesTheRecurrence(Toy):
    def functional(self, x, state=None, mask=None):
        rounded = x.bfloat16().to(x.dtype) if torch.is_autocast_enabled("cpu") else x
        return super().functional(rounded, state, mask)


@fault("odd_sizes")
class OneStepIsSilent(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes * (len(x) > 1), after, h


@fault("odd_sizes")
class EmptyBatchRaises(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x - 0 * x.max(), state, lengths)


@fault("memory_layouts")
class TakesStridesForGranted(Toy):
    def functional(self, x, state=None, mask=None):
        dense = torch.empty(x.shape).stride()
        return super().functional(torch.as_strided(x, x.shape, dense, x.storage_offset()), state, mask)


@fault("nan_stays_visible")
class NanSwallowed(Toy):
    def fire(self, h, axis):
        return self.surrogate_function(h - over(self.threshold, h, axis))


# Refusals


@fault("wrong_input_is_refused")
class StateOfAnotherBatchIsReset(Toy):
    def functional(self, x, state=None, mask=None):
        batch = x.shape[0 if self.step_mode == "s" else 1] if x.dim() > 1 else 0
        other = state is not None and any(len(value) != batch for value in state.values())
        return super().functional(x, None if other else state, mask)


@fault("wrong_input_is_refused")
class FloatMaskIsTaken(Toy):
    def functional(self, x, state=None, mask=None):
        return super().functional(x, state, None if mask is None else mask.bool())
