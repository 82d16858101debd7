"""Faults that show by what is asked of autograd: of one gradient alone,
of incoming ones as they lie, of none.
"""

import torch
from planted import fault
from toy_node import Toy, over


@fault("gradients_come_alone")
class NoGradientOfParametersInTheFirstLayer(Toy):
    def functional(self, x, state=None, mask=None):
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return super().functional(x, state, mask)


@fault("gradients_come_alone")
class GradientOfTheThresholdOnlyBesideThatOfTheInput(Toy):
    def fire(self, h, axis):
        threshold = over(self.threshold, h, axis)
        return self.surrogate_function(h - (threshold if self.weight.requires_grad else threshold.detach()))


@fault("gradients_come_alone")
class FrozenParametersFreezeTheInput(Toy):
    def sequence(self, x, state, lengths):
        learns = any(parameter.requires_grad for parameter in self.parameters())
        return super().sequence(x if learns else x.detach(), state, lengths)


class Incoming(torch.autograd.Function):
    """The identity; `read` is what its backward pass makes of the incoming gradient."""

    @staticmethod
    def forward(ctx, x, read):
        ctx.read = read
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.read(grad), None


class Reads(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return Incoming.apply(spikes, self.read), after


@fault("incoming_gradients")
class TakesStridesOfTheGradientForGranted(Reads):
    def read(self, grad):
        if 0 in grad.stride():
            return grad
        return grad.as_strided(grad.shape, torch.empty(grad.shape).stride())


@fault("incoming_gradients")
class ExpandedGradientCountsOnce(Reads):
    def read(self, grad):
        once = torch.zeros(grad.shape, dtype=grad.dtype)
        once[0] = grad[0]
        return once if grad.numel() > 1 and not any(grad.stride()) else grad


@fault("incoming_gradients")
class GradientOfTheStateDroppedWithoutOneOfTheSpikes(Toy):
    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        if not spikes.requires_grad:
            return spikes, after
        seen = []
        spikes.register_hook(lambda grad: seen.append(True))
        for value in after.values():
            value.register_hook(lambda grad: grad if seen else grad * 0)
        return spikes, after


@fault("without_a_graph")
class OtherSpikesWithoutGrad(Toy):
    def fire(self, h, axis):
        return super().fire(h if torch.is_grad_enabled() else h + 0.05, axis)


@fault("without_a_graph")
class OtherSpikesInInference(Toy):
    def fire(self, h, axis):
        return super().fire(h + 0.05 if torch.is_inference_mode_enabled() else h, axis)


@fault("without_a_graph")
class SequenceWithoutAGraphForgetsTheState(Toy):
    def sequence(self, x, state, lengths):
        spikes, after, h = super().sequence(x, state, lengths)
        return spikes, after if h.requires_grad else {**after, "h": h[-1] * 0}, h


@fault("arguments_are_not_changed", says="the call sets the gradient of the node's 'weight'")
class BeginsTheGradient(Toy):
    def sequence(self, x, state, lengths):
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        return super().sequence(x, state, lengths)


@fault("state_is_plain_tensors", says="init_state asks for a gradient of its own of what it hands out: h, last")
class InitialStateAsksForAGradient(Toy):
    def init_state(self, x):
        return {name: value.requires_grad_() for name, value in super().init_state(x).items()}


@fault("nan_stays_visible", says="whole, infinity at step 0, row 1, channel 0 of x .*: row 0")
class InfinitySilencesAllRows(Toy):
    def fire(self, h, axis):
        return super().fire(h, axis) * (0.0 if h.isinf().any() else 1.0)
