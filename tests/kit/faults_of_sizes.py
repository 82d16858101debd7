"""Faults that begin at a size: a length, a width, a number of neurons, an axis, half precision."""

import torch
from faults_of_sequences import Stateless, first
from planted import fault
from toy_node import Toy, over


def in_chunks(node, size, x, state, carry):
    """`Toy.sequence` in chunks of so many steps; `carry` makes the state that the next one gets."""
    spikes, potentials = [], []
    for part in x.split(size):
        fired, after, h = Toy.sequence(node, part, state, None)
        spikes.append(fired)
        potentials.append(h)
        state = carry(after)
    return torch.cat(spikes), after, torch.cat(potentials)


def forgotten(state):
    return {**state, "h": torch.zeros_like(state["h"])}


def silent(spikes, axis, block):
    """The spikes, those of the last along an axis 0 if `block` divides its size."""
    size = spikes.shape[axis]
    return spikes if size % block else spikes * over(torch.arange(size) < size - 1, spikes, axis)


@fault("long_sequences", says=r"1025 steps against pieces of 205, x \[1025, 2, 5\]")
class CarryLostAtStep512(Toy):
    def sequence(self, x, state, lengths):
        return in_chunks(self, 512, x, state, forgotten) if lengths is None else super().sequence(x, state, lengths)


@fault("long_sequences", says=r"1025 steps against pieces of 205, x \[1025, 2, 5\]: gradient of x")
class GradientCutAtStep1000(Toy):
    def sequence(self, x, state, lengths):
        early = torch.arange(len(x))[:, None, None] < 1000
        return super().sequence(torch.where(early, x, x.detach()) if len(x) > 1000 else x, state, lengths)


@fault("every_length", says=r"257 steps: one call against calls of one step, x \[257, 2, 5\]: ")
class CarryLostBetweenChunksOf256(Toy):
    def sequence(self, x, state, lengths):
        return in_chunks(self, 256, x, state, forgotten) if lengths is None else super().sequence(x, state, lengths)


@fault(
    "long_sequences", causal=False, steps=False, carries_state=False, takes_mask=False,
    says=r"step 511 of 1,026 has a gradient from the step before, itself, the step after: \[True, True, False\]",
)  # fmt: skip
class ChunksOf512DoNotSeeEachOther(Stateless):
    def sequence(self, x, state, lengths):
        parts = [Stateless.sequence(self, part, state, None)[0] for part in x.split(512)]
        return torch.cat(parts), {}, None


@fault("every_length", says=r"64 steps: one call against calls of one step, x \[64, 2, 5\]: final state 'h' differs")
class FinalStateWrongIf64DividesTheLength(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, after if len(x) % 64 else {**after, "h": after["h"] + 0.01}, h


@fault("every_length", says=r"48 steps: one call against calls of one step, x \[48, 2, 5\]: final state 'h' differs")
class FinalStateWrongIf48DividesTheLength(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, after if len(x) % 48 else {**after, "h": after["h"] + 0.01}, h


@fault("every_length", says=r"17 steps: .*, x \[17, 2, 5\]: final state 'last' differs")
class FinalStateOfAnOddTail(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "last": x[-2].clone()} if len(x) % 16 == 1 and len(x) > 1 else after, h


@fault("every_length", causal=False, steps=False, carries_state=False, says="100 steps: the sequence against a longer")
class LastStepSilentAt100(Stateless):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return torch.cat((spikes[:-1], 0 * spikes[-1:])) if len(x) == 100 else spikes, after, h


@fault("large_batches", says=r"a batch of 1800 against batches of 100, x \[3, 1800, 5\]: \d+ of 27000 spikes differ")
class NeuronsBeyond4096AreSilent(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return first(spikes, 4096), after, h


@fault("large_batches", says=r"a batch of 1800 against batches of 100, x \[3, 1800, 5\]: final state 'h'")
class StatesBeyond4096AreNotWritten(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, {**after, "h": first(after["h"][None], 4096)[0]}, h


@fault("large_batches", says=r"a batch of 1800 against batches of 100, x \[3, 1800, 5\]")
class RowsMixedAboveABatchOf300(Toy):
    def decay(self, x, before, axis):
        mixed = x - x.mean(axis - 1, keepdim=True) if x.shape[axis - 1] > 300 else x
        return super().decay(mixed, before, axis)


@fault("large_batches", says=r"a batch of 256 against batches of 30, x \[5, 256, 5\]: \d+ of 6400 spikes differ")
class LastRowSilentIf64DividesTheBatch(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return silent(spikes, 1, 64), after, h


@fault("large_batches", says=r"a batch of 256 against batches of 30, masked, x \[5, 256, 5\]")
class MaskIgnoredBeyondRow64(Toy):
    def sequence(self, x, state, lengths):
        if lengths is not None:
            lengths = torch.where(torch.arange(len(lengths)) < 64, lengths, len(x))
        return super().sequence(x, state, lengths)


@fault("channels_are_alike", says=r"spikes of 256 channels of equal parameters and inputs, from number \[255\] on")
class LastChannelSilentIf128DividesTheChannels(Toy):
    def fire(self, h, axis):
        return silent(super().fire(h, axis), axis, 128)


@fault("rows_do_not_mix", says=r"places \[64\] of x \[7, 2, 5, 64\] moved into the batch")
class LastPlaceSilentIf16DividesTheAxis(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        return silent(spikes, axis + 1, 16) if h.dim() == axis + 2 else spikes


@fault("channels_are_alike", says=r"spikes of 129 channels of equal parameters and inputs, from number \[64\] on")
class SilentFromChannel64(Toy):
    def fire(self, h, axis):
        return super().fire(h, axis) * over(torch.arange(self.channels) < 64, h, axis)


@fault(
    "channels_are_alike", says=r"gradient of x of 770 channels of equal parameters and inputs, from number \[(0|256)\]"
)
class NoGradientFromChannel256(Toy):
    def fire(self, h, axis):
        early = over(torch.arange(self.channels) < 256, h, axis)
        return super().fire(early * h + ((1 - early) * h).detach(), axis)


@fault("channels_are_alike", says=r"of 64 channels 32 never fire: those numbered \[32, 33, ")
class HalfOfThemSilentIf64DividesTheChannels(Toy):
    """With a parameter that all channels share, so equal channels are not to be had."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shared = torch.nn.Parameter(torch.ones(3))

    def fire(self, h, axis):
        half = self.channels if self.channels % 64 else self.channels // 2
        return super().fire(h, axis) * over(torch.arange(self.channels) < half, h, axis) * self.shared.sum().sign()


@fault("steps_equal_sequence", says=r"multi-step against single-step, given state, x \[5, 2, 5, 4\]")
class PlacesReversedOfOneTrailingAxis(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes.flip(-1) if x.dim() == 4 else spikes, after, h


@fault("rows_do_not_mix", says=r"places \[4\] of x \[7, 2, 5, 4\] moved into the batch")
class OneTrailingAxisMixed(Toy):
    def decay(self, x, before, axis):
        mixed = x.cumsum(-1) if x.dim() == axis + 2 else x
        return super().decay(mixed, before, axis)


@fault("padding_is_removal", says=r"padding holes, trailing axes, x \[5, 2, 5, 4\]")
class MaskIgnoredWithOneTrailingAxis(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(x, state, None if x.dim() == 4 else lengths)


@fault("half_precision", says=r"whole, torch.bfloat16 input against float32, x \[300, 16, 5\]")
class RoundsHalfPrecisionBeyond16Steps(Toy):
    narrow = False

    def functional(self, x, state=None, mask=None):
        self.narrow = x.itemsize == 2 and self.step_mode == "m" and len(x) > 16
        return super().functional(x, state, mask)

    def fire(self, h, axis):
        return super().fire(h.bfloat16().to(h.dtype) if self.narrow else h, axis)


@fault("half_precision", says=r"stepwise, torch.bfloat16 input against float32, x \[9, 8, 5\]: state 'h' is torch.bfl")
class SingleStepsKeepTheStateInHalfPrecision(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, {name: value.to(x.dtype) for name, value in after.items()} if self.step_mode == "s" else after


class RoundsInSingleSteps(Toy):
    """Potentials in half precision in single steps, if `narrow` says so of their shape."""

    def narrow(self, h):
        return h.dim() > 2 and h.shape[-1] == 1

    def fire(self, h, axis):
        return super().fire(h.bfloat16().to(h.dtype) if axis == 1 and self.narrow(h) else h, axis)


@fault("steps_equal_sequence", says=r"multi-step against single-step, given state, x \[5, 2, 5, 1\]")
class RoundsInSingleStepsWithATrailingAxisOf1(RoundsInSingleSteps):
    pass


@fault("half_precision", says=r"stepwise, torch.bfloat16 input against float32, x \[9, 300, 5, 1\]")
class RoundsHalfPrecisionInSingleStepsWithATrailingAxisOf1(RoundsInSingleSteps):
    half = False

    def functional(self, x, state=None, mask=None):
        self.half = x.itemsize == 2
        return super().functional(x, state, mask)

    def narrow(self, h):
        return self.half and super().narrow(h)


@fault("weights_may_change", says=r"1025 steps of a used node in eval\(\) and no_grad, with new weights")
class KeepsThresholdsForLongSequences(Toy):
    kept = None

    def fire(self, h, axis):
        if self.training or torch.is_grad_enabled() or len(h) < 600:
            return super().fire(h, axis)
        self.keep(self.threshold.detach().clone() if self.kept is None else self.kept)
        return self.surrogate_function(h - over(self.kept, h, axis)).masked_fill(h.isnan(), torch.nan)

    def keep(self, threshold):
        self.kept = threshold


@fault("weights_may_change", says=r"1025 steps of a used node in eval\(\) and no_grad, with new weights")
class KeepsThresholdsForLongSequencesInItsClass(KeepsThresholdsForLongSequences):
    def keep(self, threshold):
        type(self).kept = threshold
