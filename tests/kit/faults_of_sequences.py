"""Faults in going one step at a time, in pieces and in one call, and in the gradients of each."""

from typing import ClassVar

import torch
from planted import fault
from toy_node import Toy, keep, over, scan

from sj_lang.neuron import Kernel


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


# Long and wide


class Ends(torch.autograd.Function):
    """The identity, whose gradient ends after step 70 where there are more than 140."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if len(grad) <= 140:
            return grad
        return torch.cat((grad[:70], torch.zeros_like(grad[70:])))


@fault("long_sequences")
class GradientEndsAfterStep70(Toy):
    def sequence(self, x, state, lengths):
        return super().sequence(Ends.apply(x), state, lengths)


class Stateless(Toy):
    """Begins each call at rest and sees the step ahead: being bidirectional, it has no pieces."""

    def supported_step_mode(self):
        return ("m",)

    def state_shapes(self, shape):
        return {}

    def sequence(self, x, state, lengths):
        ahead = torch.cat((x[1:], torch.zeros_like(x[:1])))
        if lengths is not None:
            last = torch.arange(len(x), device=x.device)[:, None] >= lengths - 1
            ahead = ahead.masked_fill(last.view(*last.shape, *(1,) * (x.dim() - 2)), 0)
        rest = torch.zeros_like(x[0])
        spikes, _, h = super().sequence(x + 0.5 * ahead, {"h": rest, "last": rest}, None)
        return spikes, {}, h


@fault("long_sequences", causal=False, steps=False, carries_state=False)
class GradientEndsAfterStep70WithoutAState(Stateless):
    def sequence(self, x, state, lengths):
        return super().sequence(Ends.apply(x), state, lengths)


@fault("gradients_are_exact", causal=False, steps=False, carries_state=False, takes_mask=False)
class GradientEndsAfterStep70WithoutAStateOrAMask(Stateless):
    def sequence(self, x, state, lengths):
        return super().sequence(Ends.apply(x), state, lengths)


@fault("long_sequences")
class SilentAfterStep128(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return torch.cat((spikes[:128], 0 * spikes[128:])), after, h


def first(x, count):
    """x with 0 beyond so many columns of each step."""
    flat = x.flatten(1)
    return torch.cat((flat[:, :count], 0 * flat[:, count:]), dim=1).view(x.shape)


@fault("large_batches")
class ColumnsBeyondTheFirstTileAreNotComputed(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return first(spikes, 512), after, h


@fault("large_batches")
class NoGradientBeyondTheFirstTile(Toy):
    def sequence(self, x, state, lengths):
        early = first(x, 1024)
        return super().sequence(early + (x - early).detach(), state, lengths)


@fault("large_batches")
class ParametersLearnFromTheFirstTile(Toy):
    def decay(self, x, before, axis):
        alpha = super().decay(x, before, axis)
        if axis == 1:
            return alpha
        early = first(alpha, 512)
        return early + (alpha - early).detach()


@fault("channels_are_alike")
class SilentFromChannel17(Toy):
    def fire(self, h, axis):
        return super().fire(h, axis) * over(torch.arange(self.channels) <= 16, h, axis)


@fault("channels_are_alike")
class AnotherThresholdFromChannel17(Toy):
    def fire(self, h, axis):
        return super().fire(h - over(0.1 * (torch.arange(self.channels) > 16), h, axis), axis)


@fault("channels_are_alike")
class HalfTheGradientFromChannel17(Toy):
    def fire(self, h, axis):
        half = over(0.5 * (torch.arange(self.channels) > 16), h, axis)
        return super().fire(h - half * h + (half * h).detach(), axis)


@fault("backends_agree")
class KernelOfItsOwnEndsEarly(Toy):
    """Without a single step of another kind that would tell."""

    kernels: ClassVar = {"numba": Kernel(lambda *given: Ends.apply(scan(*given))), "torch": Kernel(scan)}
