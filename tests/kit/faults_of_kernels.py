"""Faults in kernels, in numbers, and in what is refused."""

import torch
from planted import fault
from toy_node import Toy, over

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


@fault("output_is_fully_written")
class ColumnsBeyondTheFirstTileNotWritten(Toy):
    def fire(self, h, axis):
        spikes = super().fire(h, axis).flatten(axis - 1)
        out = torch.empty_like(spikes)
        out[..., :512] = spikes[..., :512]
        return out.view(h.shape) if spikes.shape[-1] > 512 else spikes.view(h.shape)


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


@fault("wrong_input_is_refused")
class ParametersElsewhereAreReplaced(Toy):
    def functional(self, x, state=None, mask=None):
        if self.weight.device != x.device:
            with torch.random.fork_rng(devices=[]):
                return type(self)(channels=self.channels).functional(x, state, mask)
        return super().functional(x, state, mask)
