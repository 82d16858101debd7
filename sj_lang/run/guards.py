"""Guards against what transformers' Trainer lets pass: NaN, signals, a wrongly scaled loss."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.errors import Interrupted, RunFailed, UserError
from sj_lang.hf import shield
from sj_lang.monitor import undisturbed

shield()

from transformers import TrainerCallback  # noqa: E402


def finite(values: list[Tensor]) -> Tensor:
    """Whether all values are finite, by one norm of them: a bool scalar on their device."""
    local = [value.to_local() if hasattr(value, "to_local") else value for value in values]
    return torch.isfinite(torch.nn.utils.get_total_norm(local))


class FiniteGuard:
    """Stops a training at the first loss or gradient that is not finite, before the weights change.

    Collects the micro-batches of one optimizer step; `check` after the last backward pass. One host
    sync a step.
    """

    def __init__(self) -> None:
        self._batches: list[Mapping[str, Any]] = []
        self._losses: list[Tensor] = []
        self._last: tuple[int, Tensor] | None = None

    def collect(self, batch: Mapping[str, Any], loss: Tensor) -> None:
        self._batches.append(batch)
        self._losses.append(loss.detach())

    def check(self, model: nn.Module, step: int, *, scaled: bool, world_size: int, hints: str = "") -> None:
        """Raise RunFailed if step `step` (the first is 1) is not finite, and say where it begins.

        scaled: gradients are multiplied by a float16 loss scale, whose overflows are handled
        elsewhere.
        """
        batches, losses = self._batches, self._losses
        self._batches, self._losses = [], []
        loss = torch.stack(losses).sum()
        grads = [] if scaled else [p.grad for p in model.parameters() if p.grad is not None]
        sound = torch.isfinite(loss) & finite(grads) if grads else torch.isfinite(loss)
        if world_size > 1:
            everywhere = sound.to(torch.int32)
            torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
            sound = everywhere > 0
        if bool(sound):
            self._last = (step, loss)
            return
        what = f"the loss is {float(loss)}" if not bool(torch.isfinite(loss)) else "a gradient is not finite"
        before = f"The last finite loss was {float(self._last[1]):.4g}, at step {self._last[0]}. " if self._last else ""
        raise RunFailed(f"stopped at step {step}: {what}. {locate(model, batches)} {before}{hints}".rstrip())


def locate(model: nn.Module, batches: list[Mapping[str, Any]]) -> str:
    """A sentence on where values stop being finite: in parameters, forward pass or gradients."""
    for name, parameter in model.named_parameters():
        if not bool(finite([parameter.detach()])):
            return f"The first parameter that is not finite: {name}."
    for batch in batches:
        if sentence := _first_output(model, batch):
            return sentence
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, grad in named if not bool(finite([grad]))]
    if bad:
        return (
            f"Parameters and the forward pass are finite; {len(bad)} of {len(named)} gradients are not, "
            f"the first parameter {bad[0]}, the last (nearest to the loss) {bad[-1]}."
        )
    return "Repeating the step did not reproduce it."


def _first_output(model: nn.Module, batch: Mapping[str, Any]) -> str:
    """Repeat a forward pass and name the first module whose output is not finite; "" if all are."""
    first: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        bad = not all(bool(finite([t])) for t in _tensors(output))
        if bad and not first:
            first.append(f"The first output that is not finite: {names[module] or 'model'} ({type(module).__name__}).")

    with ExitStack() as hooks, torch.no_grad():
        for module in names:
            hooks.enter_context(module.register_forward_hook(look))
        model(**batch)
    return first[0] if first else ""


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def check_loss_scaling(model: nn.Module, batch: Mapping[str, Any], *, accumulation: int) -> None:
    """Raise UserError if a model takes `num_items_in_batch` and does not divide its loss by it.

    The Trainer leaves that division to a model whose forward has **kwargs; one that forgets it
    trains, without a word, with gradients that are `accumulation` times too large.
    """
    items = int((batch["labels"] != -100).sum()) if "labels" in batch else 1
    with undisturbed(model):
        once, twice = (float(model(**batch, num_items_in_batch=n)["loss"]) for n in (items, 2 * items))
    if abs(once - 2 * twice) > 1e-3 * abs(once):
        raise UserError(
            f"model {type(model).__name__}: its forward takes **kwargs and ignores num_items_in_batch, so its gradient "
            f"would be {accumulation} times too large. The model must hand its kwargs to self.loss_function, or set "
            "accepts_loss_kwargs = False"
        )


#: the signals that end a run with a checkpoint; Windows has no SIGHUP
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Termination(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """SIGTERM and SIGHUP, that of a terminal which is closed, in training: finish the step, save a
    checkpoint, raise Interrupted. Later: `check`.

    The handler raises nothing itself: it may run where Python drops exceptions.
    """

    def __init__(self, continuing: str) -> None:
        self.continuing = continuing  # the command that goes on, for the message
        self.training = False
        self.requested = 0  # the number of the signal, if there was one
        self._saving = False
        self._at_end = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the signals inside the context; they reach the main thread only. What is ignored,
        as SIGHUP is under nohup, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.getsignal(one) for one in STOPPING}
        handled = {one: handler for one, handler in before.items() if handler is not signal.SIG_IGN}
        for one in handled:
            signal.signal(one, self._on_signal)
        try:
            yield
        finally:
            for one, handler in handled.items():
                signal.signal(one, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.requested = number

    def check(self, when: str = "after the training") -> None:
        """Raise Interrupted if a signal has arrived and the Trainer does not train."""
        if self.requested and not self.training:
            raise self._interrupted(when)

    def _interrupted(self, when: str) -> Interrupted:
        name = signal.Signals(self.requested).name
        return Interrupted(f"stopped by {name} {when}. To continue: {self.continuing}", 128 + self.requested)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = False

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.check()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint of an epoch's last step holds what is evaluated and logged at its end."""
        self._saving = self._saving or self._agreed(args)
        saves = control.should_save or self._saving
        self._at_end = saves and (float(state.epoch).is_integer() or state.global_step >= state.max_steps)
        control.should_save = saves and not self._at_end

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # the evaluation of a save_strategy "best" had the last word at the end of the step
        control.should_save = control.should_save or self._at_end or self._saving
        self._at_end = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._saving:
            raise self._interrupted(f"at step {state.global_step}, checkpoint-{state.global_step} is saved")

    def _agreed(self, args: Any) -> bool:
        """The signal reaches processes at different steps; all stop at the same one."""
        if args.world_size > 1:
            anyone = torch.tensor(self.requested, device=args.device)
            torch.distributed.all_reduce(anyone, torch.distributed.ReduceOp.MAX)
            self.requested = int(anyone)
        return self.requested > 0
