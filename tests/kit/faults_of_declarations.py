"""Faults in what a node declares: that it takes a mask, looks back alone, steps,
carries a state, takes any length.
"""

import torch
from planted import fault
from toy_node import Toy

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


@fault("operations_are_counts")
class CostsLessThanNothing(Toy):
    def operations(self):
        return -1, 0


@fault("any_length_as_declared")
class LearnedPositions(Toy):
    def sequence(self, x, state, lengths):
        positions = torch.linspace(0, 1, 16, dtype=x.dtype)[:, None, None]
        return super().sequence(x + positions[: len(x)], state, lengths)
