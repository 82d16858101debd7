"""transformers' Trainer with exact figures, guards, and a record of how the network fires."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sj_lang.errors import RunFailed
from sj_lang.folder import RunFolder
from sj_lang.hf import shield
from sj_lang.monitor import neuron_tensors, seeded
from sj_lang.recipe.sections import NEURON_RATE
from sj_lang.run import checkpoints
from sj_lang.run.assembly import Job
from sj_lang.run.batches import BatchTrainer, split_figures
from sj_lang.run.callbacks import Epochs, Lines, RunMark
from sj_lang.run.console import Console
from sj_lang.run.guards import FiniteGuard, Termination
from sj_lang.run.measurements import Measurements
from sj_lang.task import Prepared

shield()

from transformers import PrinterCallback, ProgressCallback, default_data_collator  # noqa: E402
from transformers.trainer_utils import rotate_checkpoints  # noqa: E402


class RunTrainer(BatchTrainer):
    """The Trainer of one run. folder: where metrics.jsonl goes; None: nowhere."""

    def __init__(self, job: Job, console: Console, folder: RunFolder | None = None) -> None:
        self.prepared = job.prepared
        self.objective: Any = job.objective
        if job.objective is not None:
            job.model.objective = job.objective  # for optimizer, checkpoints and DDP
        self.folder = folder
        self.mark = RunMark()
        self.termination = Termination(folder.continuing if folder else "")
        self.guard = FiniteGuard()
        self.neuron_rate: float | None = job.recipe.train[NEURON_RATE]
        if self.neuron_rate is not None and not neuron_tensors(job.model):
            self.neuron_rate = None
            job.notes.append(f"train.{NEURON_RATE} has no effect: the model has no neurons with parameters")
        self._use_cache = vars(job.model.config).get("use_cache")
        super().__init__(
            model=job.model,
            args=job.arguments,
            data_collator=_collate(job.prepared),
            train_dataset=job.prepared.train,
            eval_dataset=job.prepared.validation,
            processing_class=job.prepared.tokenizer,
            preprocess_logits_for_metrics=partial(_reduce, job.prepared),
            callbacks=[self.mark, self.termination],
        )
        for usual in (PrinterCallback, ProgressCallback):
            self.remove_callback(usual)
        self.add_callback(Lines(console, bar=not self.args.disable_tqdm))
        if hasattr(job.prepared.train, "set_epoch"):
            self.add_callback(Epochs(job.prepared.train))
        self.measurements = Measurements(self, job.recipe.measure)

    def create_optimizer(self, model: Any = None) -> Any:
        """transformers' own; with their own rate, the neurons are a group without weight decay."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if self.neuron_rate is None or made:
            return optimizer
        of_neurons = {id(p): p for p in neuron_tensors(self.model) if p.requires_grad}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in of_neurons]
        optimizer.add_param_group({"params": list(of_neurons.values()), "lr": self.neuron_rate, "weight_decay": 0.0})
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.mark.count(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.mark.add_loss(loss)
        self.guard.collect(self._prepare_inputs(inputs), loss)
        if self.accelerator.sync_gradients:
            self.guard.check(
                self.model,
                self.state.global_step + 1,
                scaled=getattr(self.accelerator, "scaler", None) is not None,
                world_size=self.args.world_size,
                hints=f"train.learning_rate is {self.args.learning_rate:g}, max_grad_norm {self.args.max_grad_norm:g}.",
            )
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss, or in training the task's objective in its place, scaled alike."""
        if self.objective is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        items = num_items_in_batch if self.model_accepts_loss_kwargs else None
        asks = self.objective.asks if items is None else {**self.objective.asks, "num_items_in_batch": items}
        outputs = model(**inputs, **asks)
        with self.accelerator.autocast():
            loss = self.objective(outputs, inputs, items)
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The metrics hold the task's figures, exact over the whole split, twice: as transformers
        calls them ("eval_loss") and under their names in metrics.json ("validation.loss")."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        if output.predictions is None or output.label_ids is None:
            return output
        split = "validation" if metric_key_prefix == "eval" else metric_key_prefix
        values = self.prepared.metrics(split, output.predictions, output.label_ids)
        figures = {name: float(value) for name, value in values.items()}
        metrics = output.metrics | {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return output._replace(metrics=metrics | {f"{split}.{name}": value for name, value in figures.items()})

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on validation data. RunFailed if the figure that chooses is not finite."""
        with self.mark.paused(), seeded(self.args.seed):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        name = self.args.metric_for_best_model
        value = metrics.get(f"validation.{(name or '').removeprefix('eval_')}", 0.0)
        if not math.isfinite(value):
            raise RunFailed(f"stopped at step {self.state.global_step}: the validation {name} is {value}")
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with seeded(self.args.seed):
            return super().predict(*args, **kwargs)

    # Records

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        entry = split_figures("validation", logs)
        logs = {name: value for name, value in logs.items() if name not in entry}
        histograms: dict[str, list[int]] = {}
        if "loss" in logs:
            with self.mark.paused():
                logs |= self._training_figures()
                if "firing_rate.mean" in logs:
                    histograms = self.measurements.decay_histograms()
            entry = {name if "." in name else f"train.{name}": value for name, value in logs.items()}
        super().log(logs, start_time)
        if entry and self.folder and self.is_world_process_zero():
            self.folder.append({"step": self.state.global_step, "epoch": self.state.epoch, **entry, **histograms})

    def _training_figures(self) -> dict[str, float]:
        """The loss since the last line, as if the run had never been interrupted; speed; firing,
        if it is due."""
        total, steps = self.mark.take_loss()
        mean = self.accelerator.reduce(total.to(self.args.device), reduction="mean")
        figures = {"loss": float(mean) / max(steps, 1), **self.mark.take_speed()}
        step = self.state.global_step
        is_due = self.measurements.is_due(step, step - steps, self.state.max_steps)
        return figures | self.measurements.probe() if is_due else figures

    def chosen_step(self) -> int:
        """The step whose weights the model has after the training."""
        loaded = self.args.load_best_model_at_end and self.mark.best
        return int(self.mark.best.rpartition("-")[2]) if loaded else int(self.state.global_step)

    # After training

    def release_model(self) -> None:
        """Make the model ready to be stored and tested: without the objective, and with the cache
        of its `generate`, which the Trainer turns off in the config."""
        if self.objective is not None:
            del self.model.objective
            self.objective = None
        self._set_cache(self._use_cache)

    @contextmanager
    def with_its_cache(self) -> Iterator[None]:
        """Inside, the model generates as it will when it is stored."""
        before = vars(self.model.config).get("use_cache")
        self._set_cache(self._use_cache)
        try:
            yield
        finally:
            self._set_cache(before)

    def _set_cache(self, use_cache: bool | None) -> None:
        if use_cache is not None:
            self.model.config.use_cache = use_cache
        else:
            vars(self.model.config).pop("use_cache", None)

    @property
    def is_spread(self) -> bool:
        """Whether no process has the whole model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # Checkpoints

    def _run_epoch(self, **options: Any) -> None:
        """Stop after the last step: resumed there, transformers would train one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**options)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # a pickle, and not free of secrets; the recipe says it all
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Under a scratch name until it is whole, so that a checkpoint is there or is not."""
        root, step, best = Path(self.args.output_dir), self.state.global_step, self.state.best_global_step
        if best == step or (root / checkpoints.name(best)).is_dir():
            self.mark.best = checkpoints.name(best)
        pushes, self.args.push_to_hub = self.args.push_to_hub, False
        self.args.output_dir = str(root / checkpoints.SCRATCH)
        with self.mark.paused():
            super()._save_checkpoint(*args, **kwargs)
            self.args.output_dir, self.args.push_to_hub = str(root), pushes
            self.accelerator.wait_for_everyone()
            self.mark.point_to_best(self.args, self.state)
            if self.args.should_save:
                checkpoints.publish(root, step)
                best_path = self.state.best_model_checkpoint
                rotate_checkpoints(str(root), self.args.save_total_limit, best_path, use_mtime=False)
            self.accelerator.wait_for_everyone()
            if pushes:
                self._push_from_checkpoint(str(root / checkpoints.name(step)))


def _collate(prepared: Prepared) -> Any:
    """The task's collator. Without one transformers pads, if the tokenizer has a pad token."""
    if prepared.collate is None and (prepared.tokenizer is None or prepared.tokenizer.pad_token is None):
        return default_data_collator
    return prepared.collate


def _reduce(prepared: Prepared, logits: Any, labels: Any) -> Any:
    """What the task needs of the logits. A model may return more than logits, which is left out."""
    if isinstance(labels, tuple):
        return prepared.reduce(logits[: len(labels)], labels)
    return prepared.reduce(logits[0] if isinstance(logits, tuple) else logits, labels)
