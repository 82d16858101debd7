"""The cost of a training, kept through checkpoints, and its lines on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang.hf import shield
from sj_lang.run import checkpoints
from sj_lang.run.console import Console, duration

shield()

from transformers import ProgressCallback, TrainerCallback  # noqa: E402
from transformers.trainer_callback import ExportableState  # noqa: E402


class RunMark(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is untyped
    """What a checkpoint keeps of a run: its identity, the best one, the cost so far, recent losses.

    best: the name of the checkpoint with the best weights, wherever the folder lies; "": none.
    seconds: wall clock of the training loop. busy_seconds: the same without evaluations,
    checkpoints and measurements.
    tokens: valid tokens trained on, all processes together (of this one, times their number).
    """

    def __init__(self, run: str = "") -> None:
        self.run = run
        self.best = ""
        self.seconds = 0.0
        self.busy_seconds = 0.0
        self.tokens = 0
        self.loss_sum: Tensor | float = 0.0
        self.loss_steps = 0
        self._since: float | None = None
        self._pause: float | None = None
        self._reported = (0.0, 0)
        self._counted: Tensor | int = 0
        self._world_size = 1

    def restore(self, checkpoint: Path) -> None:
        """Continue the counts of a checkpoint."""
        for name, value in checkpoints.mark(checkpoint).items():
            setattr(self, name, value)
        self._reported = (self.busy_seconds, self.tokens)

    def state(self) -> dict[str, Any]:
        self._settle()
        names = ("best", "seconds", "busy_seconds", "tokens", "loss_sum", "loss_steps")
        cost = {name: getattr(self, name) for name in names} | {"loss_sum": float(self.loss_sum)}
        return {"args": {"run": self.run}, "attributes": cost}

    def count(self, batch: Mapping[str, Any]) -> None:
        mask = batch.get("attention_mask")
        ids = batch.get("input_ids")
        if mask is not None:
            self._counted = self._counted + mask.sum()
        elif ids is not None:
            self._counted = self._counted + ids.numel()

    def add_loss(self, loss: Tensor) -> None:
        """Add a micro-batch's loss, scaled by the Trainer: those of a step add up to its loss."""
        self.loss_sum = torch.as_tensor(self.loss_sum, dtype=loss.dtype, device=loss.device) + loss.detach()

    def take_loss(self) -> tuple[Tensor, int]:
        """The sum of the losses since the last call, and its number of steps."""
        taken = torch.as_tensor(self.loss_sum), self.loss_steps
        self.loss_sum, self.loss_steps = 0.0, 0
        return taken

    def take_speed(self) -> dict[str, float]:
        """Tokens per second since the last call; empty if there was no training or no token."""
        seconds, tokens = self._reported
        self._reported = (self.busy_seconds, self.tokens)
        if self.busy_seconds <= seconds:
            return {}
        return {"tokens_per_second": (self.tokens - tokens) / (self.busy_seconds - seconds)} if self.tokens else {}

    def point_to_best(self, args: Any, state: Any) -> None:
        """Correct the path that transformers remembers: of a scratch folder, or before a move."""
        state.best_model_checkpoint = str(Path(args.output_dir) / self.best) if self.best else None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count as training. May be nested."""
        if self._since is None or self._pause is not None:
            yield
            return
        self._settle()
        self._pause = time.perf_counter()
        try:
            yield
        finally:
            self._settle()
            self._pause = None

    def _settle(self) -> None:
        """Bring the counts up to now."""
        self.tokens += int(self._counted) * self._world_size
        self._counted = 0
        if self._since is not None:
            moment = time.perf_counter()
            self.seconds += moment - self._since
            self.busy_seconds += 0.0 if self._pause is not None else moment - self._since
            self._since = moment

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = time.perf_counter()
        self._world_size = args.world_size
        self.point_to_best(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss_steps += 1
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps are worth a line too

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._settle()
        self._since = None


class Epochs(TrainerCallback):  # type: ignore[misc]
    """Numbers the epochs for data with `set_epoch`, because transformers does not always do so."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.data.set_epoch(int(state.epoch))


class Lines(ProgressCallback):  # type: ignore[misc]
    """One line per entry of the log; on a terminal, above transformers' progress bar."""

    def __init__(self, console: Console, *, bar: bool) -> None:
        super().__init__()
        self.console = console
        self.bar = bar
        self._begun = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = (time.perf_counter(), state.global_step)
        if self.bar:
            super().on_train_begin(args, state, control, **kwargs)
            if state.is_world_process_zero:
                self.training_bar.update(state.global_step)
            self.current_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.bar:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        line = self._line(state, logs)
        if self.bar and self.training_bar is not None:
            self.training_bar.write(line)
            self.console.record(line)
        else:
            self.console.say(line)

    def _line(self, state: Any, logs: Mapping[str, Any]) -> str:
        words = [f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"]
        if "loss" in logs:
            words.append(f"loss {logs['loss']:.4f}")
        words += [
            f"validation {key.removeprefix('eval_')} {value:.4f}"
            for key, value in logs.items()
            if key.startswith("eval_") and key not in _SPEED
        ]
        if "learning_rate" in logs:
            words.append(f"lr {logs['learning_rate']:.2e}")
        if "tokens_per_second" in logs:
            words.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
        if "firing_rate.mean" in logs:
            words.append(f"firing {logs['firing_rate.mean']:.3f}")
        begun, step = self._begun
        if "loss" in logs and not self.bar and state.global_step > step:
            left = (time.perf_counter() - begun) / (state.global_step - step) * (state.max_steps - state.global_step)
            words.append(f"{duration(left)} left")
        return "  ".join(words)


_SPEED = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"}
