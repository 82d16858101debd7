"""Faults in states, in arguments, and in the life cycle of a module."""

from copy import copy
from types import SimpleNamespace
from typing import ClassVar

import torch
from planted import fault
from toy_node import Toy, over


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


class Transposed(Toy):
    """The state under a mask is a view where the batch is 1,
    as contiguous() of a transposed tensor is.
    """

    def functional(self, x, state=None, mask=None):
        spikes, after = super().functional(x, state, mask)
        return spikes, after if mask is None else self.turned(after)

    def forward(self, x, mask=None):
        spikes = super().forward(x, mask)
        if mask is not None:
            for name, value in self.turned(dict(self.named_memories())).items():
                setattr(self, name, value)
        return spikes

    def turned(self, state):
        return {name: value.view_as(value) if len(value) == 1 else value for name, value in state.items()}


@fault("state_is_plain_tensors")
class StateUnderAMaskIsAView(Transposed):
    pass


@fault("detach_cuts")
class DetachFailsAfterAMask(Transposed):
    pass


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


@fault("nothing_piles_up")
class KeepsEverySpike(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        self.history = []

    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        self.history.append(spikes.detach())
        return spikes


@fault("nothing_piles_up")
class KeepsEveryCallInItsClass(Toy):
    calls: ClassVar = []

    def sequence(self, x, state, lengths):
        self.calls.append(len(x))
        return super().sequence(x, state, lengths)


@fault("nothing_piles_up")
class TensorGrowsInAPart(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        self.part = torch.nn.Identity()
        self.part.seen = torch.zeros(0)

    def step(self, x, state):
        self.part.seen = torch.cat([self.part.seen, x.detach().flatten()])
        return super().step(x, state)


@fault("nothing_piles_up")
class ForwardRecordsInAnObject(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        self.record = SimpleNamespace(inputs={})

    def forward(self, x, mask=None):
        self.record.inputs[len(self.record.inputs)] = x.detach()
        return super().forward(x, mask)


@fault("nothing_piles_up")
class SumsSpikesWithTheirGraph(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        self.total = 0.0

    def fire(self, h, axis):
        spikes = super().fire(h, axis)
        self.total = self.total + spikes.sum()
        return spikes


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


@fault("potentials_are_stored")
class PotentialsUnderAMaskStayInFront(Toy):
    def advance(self, x, state, mask, *, single):
        spikes, after, v = super().advance(x, state, mask, single=single)
        if mask is None or single:
            return spikes, after, v
        front = torch.argsort((~mask).int(), dim=0, stable=True)[..., None].expand_as(v)
        return spikes, after, v.gather(0, front)


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


class Kept(dict):
    """One for all copies of a node."""

    def __deepcopy__(self, memo):
        return self


class CopiesShare(Toy):
    """Keeps the threshold of its class of weights, by their versions, for all of its copies."""

    keeps = staticmethod(lambda node: False)

    def __init__(self, **options):
        super().__init__(**options)
        self.kept = Kept()

    def fire(self, h, axis):
        if not self.keeps(self):
            return super().fire(h, axis)
        key = self.threshold._version, h.dtype
        kept = self.kept.setdefault(key, self.threshold.detach().clone())
        threshold = self.threshold - self.threshold.detach() + kept
        return self.surrogate_function(h - over(threshold, h, axis)).masked_fill(h.isnan(), torch.nan)


@fault("copies_are_independent", says=r"in eval\(\), deepcopy of a used node: whole of the copy")
class CopiesShareACacheInEval(CopiesShare):
    keeps = staticmethod(lambda node: not node.training)


@fault("copies_are_independent", says=r"in train\(\) and no_grad, deepcopy of a used node: whole of the")
class CopiesShareACacheWithoutGrad(CopiesShare):
    keeps = staticmethod(lambda node: not torch.is_grad_enabled())


@fault("copies_are_independent")
class CannotBePickled(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        self.gain = lambda x: x


@fault("state_dict_is_complete")
class ParameterLeftOutOfStateDict(Toy):
    def state_dict(self, *args, **arguments):
        return {name: value for name, value in super().state_dict(*args, **arguments).items() if name != "threshold"}


@fault("state_dict_is_complete")
class WeightIsNoParameter(Toy):
    def __init__(self, **options):
        super().__init__(**options)
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


@fault("state_is_plain_tensors", says="init_state of a batch of 1 hands out the same memory again")
class InitialStatesOfOneRowAreOneTensor(Toy):
    def init_state(self, x):
        state = super().init_state(x)
        return {**state, "last": state["h"]} if len(state["h"]) == 1 else state


@fault("state_dict_is_complete", says="load_state_dict accepts a state_dict without 'weight'")
class LoadsWhatIsThere(Toy):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


@fault("moves", says="the parameter 'threshold' after .to")
class RoundsItsThresholdWhenMoved(Toy):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.threshold.data = self.threshold.data.bfloat16().to(self.threshold.dtype)
        return self
