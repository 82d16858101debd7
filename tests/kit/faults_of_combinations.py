"""Faults that need two things at once: a mask and single steps, eval and trailing axes, a length
and a gradient, a large batch and single steps; and what a call may rely on beside its arguments.
"""

from typing import ClassVar

import torch
from planted import fault
from toy_node import Toy, over

# A size, and a gradient or single steps


@fault("every_length", says=r"64 steps: one call against pieces of 57 and 7, x \[64, 2, 5\]: gradient of x")
class GradientOfTheLastStepLostIf64DividesTheLength(Toy):
    def sequence(self, x, state, lengths):
        cut = torch.cat((x[:-1], x[-1:].detach())) if len(x) % 64 == 0 else x
        return super().sequence(cut, state, lengths)


@fault("channels_are_alike", says=r"gradient of threshold of 129 channels of equal parameters and inputs, from number")
class ThresholdsBeyondChannel64DoNotLearn(Toy):
    def fire(self, h, axis):
        early = torch.arange(self.channels) < 64
        threshold = over(torch.where(early, self.threshold, self.threshold.detach()), h, axis)
        return self.surrogate_function(h - threshold).masked_fill(h.isnan(), torch.nan)


@fault("channels_are_alike", says=r"of 4100 channels of equal parameters and inputs, from number \[2048\] on")
class SilentFromChannel2048(Toy):
    def fire(self, h, axis):
        return super().fire(h, axis) * over(torch.arange(self.channels) < 2048, h, axis)


@fault("rows_do_not_mix", says=r"places \[33, 33\] of x \[7, 2, 5, 33, 33\] moved into the batch")
class SilentFromPlace1000(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        if h.dim() == axis + 1:
            return spikes
        flat = spikes.flatten(axis + 1)
        return (flat * (torch.arange(flat.shape[-1]) < 1000)).view(h.shape)


@fault("large_batches", says=r"single steps of a batch of 1800 against the sequence, x \[3, 1800, 5\]")
class SingleStepsSilentBeyondRow128(Toy):
    def step(self, x, state):
        spikes, after, h = super().step(x, state)
        return spikes * over(torch.arange(len(x)) < 128, spikes, 0), after, h


@fault("long_sequences", says=r"1025 steps against pieces of 205, x \[1025, 2, 5\]")
class RoundsInFloat32Beyond400Steps(Toy):
    def fire(self, h, axis):
        narrow = axis == 2 and len(h) > 400 and h.dtype == torch.float32
        return super().fire(h.bfloat16().to(h.dtype) if narrow else h, axis)


@fault("large_inputs", says=r"whole, inputs of .* times the usual size, x \[300, 2, 5\]")
class NanGradientsInLongSequencesOfLargeInputs(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x + 0 * x.abs().cumsum(0).exp() if len(x) > 100 else x, state, lengths)


@fault("ties_fire_alike", says=r"right at the threshold a sequence of three steps is silent, and a single step does")
class TiesAreSilentInSequencesOfSeveralSteps(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        return spikes * (h != over(self.threshold, h, axis)) if axis == 2 and len(h) > 1 else spikes


@fault("nan_stays_visible", says=r"whole, NaN at step 0, row 1, channel 4 of x \[7, 3, 5\]: the spike there is")
class NanSwallowedInTheLastChannel(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        last = over(torch.arange(self.channels) == self.channels - 1, spikes, axis).bool()
        return torch.where(last, spikes.nan_to_num(0), spikes)


@fault("nan_stays_visible", says=r"NaN at step 0, row 1, channel 0 of x \[7, 3, 5, 4\]: the spike there is")
class NanSwallowedWithATrailingAxis(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        return spikes.nan_to_num(0) if h.dim() > axis + 1 else spikes


# A mask, and something else


class MaskIgnored(Toy):
    """In sequences for which `ignores` says so."""

    def ignores(self, x):
        return False

    def sequence(self, x, state, lengths):
        return super().sequence(x, state, None if self.ignores(x) else lengths)


@fault("eval_changes_nothing", says=r"whole, masked, eval\(\) against train\(\)")
class MaskIgnoredInEval(MaskIgnored):
    def ignores(self, x):
        return not self.training


@fault("potentials_are_stored", says=r"masked, with store_v_seq against without")
class MaskIgnoredWhilePotentialsAreStored(MaskIgnored):
    def ignores(self, x):
        return self.store_v_seq


@fault("mask_in_steps_and_pieces", says=r"pieces of \(1, 1, 1, 5, 1\), padding")
class MaskIgnoredInSequencesOfOneStep(MaskIgnored):
    def ignores(self, x):
        return len(x) == 1


@fault("half_precision", says=r"whole, masked, given state, torch.bfloat16 input against float32")
class MaskIgnoredInHalfPrecision(MaskIgnored):
    half = False

    def functional(self, x, state=None, mask=None):
        self.half = x.itemsize == 2
        return super().functional(x, state, mask)

    def ignores(self, x):
        return self.half


@fault("mask_in_steps_and_pieces", says=r"single steps, padding holes, trailing axes, x \[5, 2, 5, 4\]")
class MaskIgnoredInSingleStepsWithATrailingAxis(Toy):
    def functional(self, x, state=None, mask=None):
        if self.step_mode == "m" or mask is None or x.dim() == 2:
            return super().functional(x, state, mask)
        valid = mask.view(-1, *(1,) * (x.dim() - 1))
        spikes, after = super().functional(x.masked_fill(~valid, 0), state)
        return spikes * valid, after


@fault("potentials_are_stored", says="v_seq is detached: no gradient goes from it")
class PotentialsUnderAMaskAreDetached(Toy):
    def advance(self, x, state, mask, *, single):
        spikes, after, v = super().advance(x, state, mask, single=single)
        return spikes, after, v if mask is None or v is None else v.detach()


# eval, no_grad, autocast, and something else


@fault("eval_changes_nothing", says=r"whole, eval\(\) against train\(\), x \[6, 3, 5, 4\]")
class OtherSpikesInEvalWithATrailingAxis(Toy):
    def fire(self, h, axis):
        return super().fire(h - 0.2 if not self.training and h.dim() > axis + 1 else h, axis)


@fault("eval_changes_nothing", says=r"whole, eval\(\) against train\(\), x \[130, 3, 5\]")
class RoundsInEvalBeyond50Steps(Toy):
    def fire(self, h, axis):
        narrow = axis == 2 and len(h) > 50 and not self.training
        return super().fire(h.bfloat16().to(h.dtype) if narrow else h, axis)


@fault("without_a_graph", says=r"whole, torch.no_grad, x \[9, 3, 5, 4\]")
class OtherSpikesWithoutGradWithATrailingAxis(Toy):
    def fire(self, h, axis):
        return super().fire(h - 0.2 if not torch.is_grad_enabled() and h.dim() > axis + 1 else h, axis)


@fault("half_precision", says=r"stepwise, under autocast")
class AutocastReachesSingleSteps(Toy):
    def functional(self, x, state=None, mask=None):
        narrow = torch.is_autocast_enabled("cpu") and self.step_mode == "s"
        return super().functional(x.bfloat16().to(x.dtype) if narrow else x, state, mask)


@fault("half_precision", says=r"whole, under autocast")
class AutocastReachesTheStateHandedIn(Toy):
    def functional(self, x, state=None, mask=None):
        if state and torch.is_autocast_enabled("cpu"):
            state = {name: value.bfloat16().to(value.dtype) for name, value in state.items()}
        return super().functional(x, state, mask)


@fault("weights_may_change", says=r"of a used node in eval\(\), after its weights were updated in place")
class KeepsThresholdsInItsClassInEval(Toy):
    kept: ClassVar = {}

    def fire(self, h, axis):
        if self.training:
            return super().fire(h, axis)
        kept = self.kept.setdefault(self.channels, self.threshold.detach().clone()).to(h.dtype)
        threshold = over(self.threshold - self.threshold.detach() + kept, h, axis)
        return self.surrogate_function(h - threshold).masked_fill(h.isnan(), torch.nan)


# What a call relies on, and what it leaves behind


@fault("memory_may_be_reused", says=r"whole, in train\(\) and no_grad, after x was written to, x \[6, 3, 5\]")
class KeepsTheDecayOfAnInput(Toy):
    kept = (None, None)

    def decay(self, x, before, axis):
        if torch.is_grad_enabled() or axis == 1:
            return super().decay(x, before, axis)
        if self.kept[0] != (x.data_ptr(), x.shape):
            self.kept = (x.data_ptr(), x.shape), super().decay(x, before, axis)
        return self.kept[1]


@fault("memory_may_be_reused", says=r"whole, in eval\(\) and no_grad, after x was written to")
class KeepsTheSpikesOfAnInput(Toy):
    kept = (None, None)

    def functional(self, x, state=None, mask=None):
        if state or mask is not None or self.training or torch.is_grad_enabled() or self.step_mode == "s":
            return super().functional(x, state, mask)
        if self.kept[0] is not x:
            self.kept = x, super().functional(x)
        spikes, after = self.kept[1]
        return spikes.clone(), {name: value.clone() for name, value in after.items()}


@fault("memory_may_be_reused", says=r"after the mask was written to")
class KeepsTheLengthsOfAMask(Toy):
    kept = (None, None)

    def functional(self, x, state=None, mask=None):
        if mask is not None:
            if self.kept[0] is not mask:
                self.kept = mask, mask.clone()
            mask = self.kept[1]
        return super().functional(x, state, mask)


@fault("arguments_are_not_changed", says="the call sets requires_grad of x")
class AsksForTheGradientOfItsInput(Toy):
    def functional(self, x, state=None, mask=None):
        if x.is_leaf and torch.is_grad_enabled():
            x.requires_grad_()
        return super().functional(x, state, mask)


@fault("arguments_are_not_changed", says=r"forward changes \{'step_mode': 's'.* of the node to \{'step_mode': 'm'")
class MultiStepForwardSetsTheStepMode(Toy):
    def multi_step_forward(self, x_seq, mask=None):
        self.step_mode = "m"
        return super().multi_step_forward(x_seq, mask)


@fault("arguments_are_not_changed", says=r"forward changes .*'training': False.* of the node to .*'training': True")
class ForwardTurnsTrainingOn(Toy):
    def forward(self, x, mask=None):
        self.training = True
        return super().forward(x, mask)


@fault("reset_forgets", says=r"after reset, x \[6, 3, 5, 4\]")
class ResetKeepsTheStateWithATrailingAxis(Toy):
    def reset(self):
        if self.h is None or self.h.dim() < 3:
            super().reset()


@fault("nothing_global_changes", says=r"changes torch.is_anomaly_enabled\(\) from False to True")
class TurnsAnomalyDetectionOn(Toy):
    def sequence(self, x, state, lengths):
        torch.autograd.set_detect_anomaly(True)
        return super().sequence(x, state, lengths)


# Refusals


@fault("wrong_input_is_refused", says="a mask of torch.int64: not refused")
class TakesMasksOfIntegers(Toy):
    def functional(self, x, state=None, mask=None):
        return super().functional(x, state, mask if mask is None or mask.is_floating_point() else mask.bool())


@fault("wrong_input_is_refused", says="a mask of one row for a batch of 3: not refused")
class SpreadsAMaskOfOneRow(Toy):
    def functional(self, x, state=None, mask=None):
        if mask is not None and mask.dtype == torch.bool and mask.shape[-1] == 1:
            mask = mask.expand(*mask.shape[:-1], x.shape[self.step_mode == "m"])
        return super().functional(x, state, mask)


@fault("wrong_input_is_refused", says="a state of one channel: not refused")
class SpreadsAStateOfOneChannel(Toy):
    def functional(self, x, state=None, mask=None):
        if state and all(value.dim() > 1 and value.shape[1] == 1 for value in state.values()):
            shape = x.shape[self.step_mode == "m" :]
            state = {name: value.expand(shape).clone() for name, value in state.items()}
        return super().functional(x, state, mask)
