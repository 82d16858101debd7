"""A spiking network starts from an ANN's weights: nearest spikes, refitted Linear layers.

One pass, front to back, over a calibration batch. Each layer of spikes that stands in front of a
Linear layer sees what the spiking layers before it really give, and gets the grid that is nearest
to its input x, channel by channel:

    S = clip(round((x - b) / a), lo, hi),   a, b = argmin mean (x - (a S + b))^2

Each Linear layer that follows then compensates for the error that is left (ridge regression towards
its own weights W):

    W' = argmin_W' mean |W' s + c' - y|^2 + ridge tr(G) / n |W' - W|^2,   s = a S + b,  G = cov(s)

with n inputs, and y what the ANN's Linear layer of that name gives on its own input. All of it is
ours: a pass of this kind is common in post-training quantisation, see docs/models/snn_bert.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sj_lang.errors import UserError
from sj_lang.monitor import intercepted, undisturbed
from sj_lang_language.attention.self_attention import SelfAttention
from sj_lang_language.layers import SpikingLayer, SpikingLinear

STARTS = (0.6, 1.0, 1.6, 2.6)  # first guesses of the step: width of the grid over two deviations
ROUNDS = 3  # from each start
MORE_ROUNDS = 16  # from the best of them
COARSER = (1.25, 1.6, 2.0, 2.6, 3.5, 5.0, 30.0)  # in nearest steps, tried if spikes have a price
MOST = 1_500  # tokens on which a grid is fitted; the regression takes all


class GridNode(Protocol):
    """A node that can be calibrated: its spikes are whole numbers, a grid over its input."""

    #: the smallest and the largest spike
    spike_range: tuple[int, int]
    #: the grid may have an offset
    offset: Tensor | None

    def fit(self, step: Tensor, offset: Tensor) -> None:
        """Set the parameters so that an input x gives the spike clip(round((x - offset) / step)).

        step, offset: [C], one value for each channel.
        """


@torch.no_grad()
def calibrate(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    batch: Mapping[str, Tensor],
    *,
    ridge: float = 0.1,
    spike_price: float = 0.0,
) -> dict[str, float]:
    """Fit the student's spikes and the Linear layers after them to its ANN twin on one batch.

    student: its layers of neurons have `scaled` spikes. teacher: the same class, `twin`. batch:
    arguments of a forward pass, labels or not. ridge: pull towards the weights that are there; 0
    needs more tokens than inputs. spike_price: what a spike costs, see `fit_spikes`; 0: nothing.

    Returns the relative squared error of each layer's output, `{"layer.0": .04, ...}`, as measured
    in this pass. Raises UserError if the batch is empty, if a layer of neurons cannot be
    calibrated, or if the teacher is no twin.
    """
    if not batch.get("attention_mask", batch["input_ids"] >= 0).sum():
        raise UserError("calibration: the batch holds no tokens; give at least one sentence")
    _check_twin(student, teacher)
    inputs = {name: value for name, value in batch.items() if "label" not in name}
    with undisturbed(student), undisturbed(teacher):
        with _outputs(_linears(teacher), _layers(teacher), _attentions(teacher)) as targets:
            teacher(**inputs)
        valid = _Valid()
        errors: dict[str, float] = {}
        with _fitting(student, targets, valid, ridge, spike_price, errors):
            student(**inputs)
    return errors


def fit_grid(
    x: Tensor, low: int, high: int, *, centred: bool = True, price: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step a > 0 and offset b, `[C]`, of the grid a {low .. high} + b nearest to `x [N, C]`.

    Alternates nearest levels and least squares from several starts, and keeps the best of each
    channel. centred: b is free; False: b = 0. With a free b a grid begins around the mean, at the
    smallest x and at the largest: GELU's outputs and other skewed ones would otherwise end in a
    poor one.
    price: `[C]`, what a spike costs, in units of the squared error; of the nearest grid and some
    coarser ones, the one whose error and spikes together cost least is taken. None: nothing.
    """
    x = x[:: max(1, len(x) // MOST)].float()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    # error, step, offset
    best = torch.stack((torch.full_like(mean, torch.inf), deviation, torch.zeros_like(mean)))

    def better_of(best: Tensor, step: Tensor, offset: Tensor, rounds: int) -> Tensor:
        for _ in range(rounds):
            levels = _nearest(x, step, offset, low, high)
            step, offset = _least_squares(x, levels, deviation, centred=centred)
        error = (x - offset - step * _nearest(x, step, offset, low, high)).square().mean(0)
        return torch.where(error < best[0], torch.stack((error, step, offset)), best)

    for start in STARTS:
        step = start * deviation * 2 / (high - low)
        around, lowest, highest = mean - step * (high + low) / 2, x.amin(0) - step * low, x.amax(0) - step * high
        for offset in (around, lowest, highest) if centred else (torch.zeros_like(mean),):
            best = better_of(best, step, offset, ROUNDS)
    _, step, offset = better_of(best, best[1], best[2], MORE_ROUNDS)
    return (step, offset) if price is None else _sparser(x, step, offset, low, high, price, centred=centred)


def fit_spikes(
    layer: SpikingLayer, x: Tensor, *, readers: Sequence[SpikingLinear] = (), spike_price: float = 0.0
) -> None:
    """Give a layer the grid that is nearest to `x [N, C]`, and its spikes the grid's values.

    With a spike_price above 0, channel c gets the grid with the smallest

        w_c mean (x - (a s + b))^2 + spike_price mean over channels of (w var x) mean |s|

    in which w_c is the sum of the squared weights of c in `readers`, the Linear layers that follow,
    or 1 without them: a channel that says little fires little.
    """
    if layer.scale is None or layer.shift is None or not hasattr(layer.node, "fit"):
        raise UserError(
            f"calibration: a layer of {type(layer.node).__name__} has no grid to fit; take neurons with whole-number "
            "spikes, such as bpsn with spikes: integer, and set model.scaled=true"
        )
    node = cast(GridNode, layer.node)
    low, high = node.spike_range
    price = None
    if spike_price:
        weight = sum((linear.weight.square().sum(0) for linear in readers), torch.zeros_like(layer.scale))
        weight = weight.clamp_min(1e-6 * weight.mean()) if readers else torch.ones_like(layer.scale)
        price = spike_price * (weight * x.float().var(0, correction=0)).mean() / weight
    step, offset = fit_grid(x, low, high, centred=node.offset is not None, price=price)
    try:
        node.fit(step, offset)
    except ValueError as error:
        raise UserError(f"calibration: {error}") from error
    layer.scale.copy_(step)
    layer.shift.copy_(offset)


def refit(linear: SpikingLinear, spikes: Tensor, target: Tensor, ridge: float) -> None:
    """Ridge regression of `target [N, out]` on the values of `spikes [N, in]`, towards W."""
    scale, shift = linear.neurons.scale, linear.neurons.shift
    values = spikes.float() if scale is None or shift is None else torch.addcmul(shift, spikes.float(), scale)
    target, weight = target.float(), linear.weight
    mean = values.mean(0)
    centred = values - mean
    residual = target - target.mean(0) - centred @ weight.T
    gram = (centred.T @ centred / len(values)).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(1e-12))
    change = torch.linalg.solve(gram, (centred.T @ residual / len(values)).double()).T
    weight.add_(change.to(weight.dtype))
    if linear.bias is not None:
        linear.bias.copy_(target.mean(0) - weight @ mean)


def _nearest(x: Tensor, step: Tensor, offset: Tensor, low: int, high: int) -> Tensor:
    return ((x - offset) / step).round().clamp(low, high)


def _sparser(
    x: Tensor, step: Tensor, offset: Tensor, low: int, high: int, price: Tensor, *, centred: bool
) -> tuple[Tensor, Tensor]:
    """This grid or a coarser one of each channel, whichever costs least with its spikes."""

    def priced(step: Tensor, offset: Tensor) -> Tensor:
        levels = _nearest(x, step, offset, low, high)
        cost = (x - offset - step * levels).square().mean(0) + price * levels.abs().mean(0)
        return torch.stack((cost, step, offset))

    best = priced(step, offset)
    for coarser in [step * factor for factor in COARSER]:
        for start in (x.mean(0), x.median(0).values, offset) if centred else (offset,):
            moved = start
            for _ in range(ROUNDS if centred else 0):
                moved = (x - coarser * _nearest(x, coarser, moved, low, high)).mean(0)
            one = priced(coarser, moved)
            best = torch.where(one[0] < best[0], one, best)
    return best[1], best[2]


def _least_squares(x: Tensor, levels: Tensor, deviation: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Step and offset for given levels; if the levels do not vary, the deviation is the step."""
    if not centred:
        step = (x * levels).sum(0) / levels.square().sum(0).clamp_min(1e-6)
        return torch.where(step > 1e-4 * deviation, step, deviation), torch.zeros_like(step)
    mean_level = levels.mean(0)
    variance = (levels - mean_level).square().mean(0)
    covariance = ((x - x.mean(0)) * (levels - mean_level)).mean(0)
    step = covariance / variance.clamp_min(1e-8)
    step = torch.where((variance > 1e-6) & (step > 1e-4 * deviation), step, deviation)
    return step, x.mean(0) - step * mean_level


class _Valid:
    """The mask of the pass as layers of neurons get it: `[L, B]`, None if all are valid."""

    mask: Tensor | None = None

    def rows(self, x: Tensor) -> Tensor:
        """The valid tokens of `[L, B, D]`, `[N, D]`."""
        return x.flatten(0, 1) if self.mask is None else x[self.mask]


def _linears(model: PreTrainedModel) -> dict[str, SpikingLinear]:
    """The Linear layers that spikes enter, by name."""
    inside = model.base_model.named_modules()
    return {name: module for name, module in inside if isinstance(module, SpikingLinear)}


def _attentions(model: PreTrainedModel) -> dict[str, SelfAttention]:
    return {name: one for name, one in model.base_model.named_modules() if isinstance(one, SelfAttention)}


def _check_twin(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """UserError unless the teacher has the student's Linear layers and places of tokens."""
    if getattr(student.config, "repeats", None):
        raise UserError(
            "calibration: with repeat coding a spike does not stand for a token's value; set model.coding=individual"
        )
    theirs = _linears(teacher)
    for name, linear in _linears(student).items():
        shape = theirs[name].weight.shape if name in theirs else None
        if shape != linear.weight.shape:
            there = "does not have it" if shape is None else f"has it in shape {list(shape)}"
            raise UserError(
                f"calibration: the teacher is not the student's ANN twin: {type(teacher).__name__} {there}: {name} "
                f"{list(linear.weight.shape)}; take a teacher with model.twin=true and the same sizes"
            )


def _layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    return {f"layer.{index}": layer for index, layer in enumerate(model.base_model.encoder.layer)}


@contextmanager
def _outputs(*groups: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The outputs of each of the modules in the calls inside."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: kept.__setitem__(name, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for name, module in [pair for group in groups for pair in group.items()]:
            hooks.enter_context(module.register_forward_hook(keep(name)))
        yield kept


@contextmanager
def _fitting(
    student: PreTrainedModel,
    targets: Mapping[str, Tensor],
    valid: _Valid,
    ridge: float,
    spike_price: float,
    errors: dict[str, float],
) -> Iterator[None]:
    """Inside, each layer is fitted in the moment before it runs."""
    linears = _linears(student)

    def before_spikes(module: Any, args: tuple[Any, ...]) -> None:
        x, _, mask = args
        valid.mask = mask
        rows = valid.rows(x)
        readers = [linear for linear in linears.values() if linear.neurons is module]
        values = rows if module.replaces is None else module.replaces(rows)
        fit_spikes(module, values, readers=readers, spike_price=spike_price)

    def before_linear(name: str) -> Any:
        return lambda module, args: refit(module, valid.rows(args[0]), valid.rows(targets[name]), ridge)

    def measure(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            outputs, aims = valid.rows(output), valid.rows(targets[name])
            errors[name] = float((outputs - aims).square().mean() / aims.var(0, correction=0).mean())

        return hook

    def before_mix(name: str, module: Any, mix: Any) -> Any:
        def fitted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, state: Any) -> Any:
            # [B, H, L, K]
            target = torch.unflatten(targets[name], -1, (module.heads, -1)).permute(1, 2, 0, 3)
            module.fit(q, k, v, mask, target)
            return mix(q, k, v, mask, state)

        return fitted

    firing = {name: module for name, module in _attentions(student).items() if hasattr(module, "fit")}
    with ExitStack() as hooks:
        hooks.enter_context(intercepted(firing, before_mix, "mix"))
        for module in student.base_model.encoder.modules():
            if isinstance(module, SpikingLayer):
                hooks.enter_context(module.register_forward_pre_hook(before_spikes))
        for name, linear in linears.items():
            hooks.enter_context(linear.register_forward_pre_hook(before_linear(name)))
        for name, layer in _layers(student).items():
            hooks.enter_context(layer.register_forward_hook(measure(name)))
        yield
