"""transformers' Trainer with exact figures, guards, and a record of how the network fires."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from sj_lang.energy import energy
from sj_lang.errors import RunFailed, UserError, choices
from sj_lang.folder import RunFolder
from sj_lang.hf import shield
from sj_lang.monitor import Monitor, seeded, undisturbed
from sj_lang.run.assembly import Job
from sj_lang.run.callbacks import Epochs, Lines, RunMark
from sj_lang.run.console import Console
from sj_lang.run.guards import FiniteGuard, Termination, check_loss_scaling
from sj_lang.run.lengths import OneLength
from sj_lang.task import MapDataset, Prepared

shield()

from transformers import PrinterCallback, ProgressCallback, Trainer, default_data_collator  # noqa: E402
from transformers.trainer_pt_utils import nested_numpify  # noqa: E402

_PROBE = 8  # samples on which firing is measured at each line of the log
_COSTED = 32  # test samples on which energy is measured


class RunTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer of one run. folder: where metrics.jsonl goes; None: figures are returned and written nowhere."""

    def __init__(
        self, job: Job, *, console: Console, folder: RunFolder | None, mark: RunMark, termination: Termination
    ) -> None:
        self.prepared = job.prepared
        self.objective: Any = job.objective
        if job.objective is not None:
            job.model.objective = job.objective  # so that the optimizer, the checkpoints and DDP have its parameters
        self.folder = folder
        self.mark = mark
        self.guard = FiniteGuard()
        self._split = "validation"
        self._figures: dict[str, float] = {}
        self._counted = (0.0, 0)
        self._probe_batch: dict[str, Any] | None = None
        self._use_cache = vars(job.model.config).get("use_cache")
        super().__init__(
            model=job.model,
            args=job.arguments,
            data_collator=_collate(job.prepared),
            train_dataset=job.prepared.train,
            eval_dataset=job.prepared.validation,
            processing_class=job.prepared.tokenizer,
            compute_metrics=self._metrics,
            preprocess_logits_for_metrics=self._reduce,
            callbacks=[mark, termination],
        )
        for usual in (PrinterCallback, ProgressCallback):
            self.remove_callback(usual)
        self.add_callback(Lines(console, bar=not self.args.disable_tqdm))
        if hasattr(job.prepared.train, "set_epoch"):
            self.add_callback(Epochs(job.prepared.train))
        self.monitor = Monitor(self.model)
        self._measures = job.recipe.measure["firing_rate"] and bool(self.monitor.nodes)
        self._measures_energy = job.recipe.measure["energy"]
        self._measures_raster = job.recipe.measure["raster"] and bool(self.monitor.nodes)

    # Before training

    def check_loss(self) -> None:
        """Gradient accumulation and data parallelism need a loss that divides by `num_items_in_batch`."""
        if (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.objective is not None:
            raise UserError(
                "train: what this task minimises works in one process and with DDP, not with FSDP or DeepSpeed"
            )
        parts = self.args.gradient_accumulation_steps * self.args.world_size
        if parts > 1 and self.model_accepts_loss_kwargs:
            check_loss_scaling(self.model, self._probe(), accumulation=parts)

    def check_smoothing(self) -> None:
        """transformers smooths the cross-entropy of `labels`; of other losses it would make another one, or fail."""
        if not self.args.label_smoothing_factor:
            return
        names = [name for name in self._probe() if "label" in name]
        whole = names == ["labels"] and not self._probe()["labels"].is_floating_point()
        if self.objective is not None or not whole:
            raise UserError(
                "train.label_smoothing_factor: only a loss that is the cross-entropy of `labels` alone is smoothed, "
                "as in classification or masked-LM without nsp; leave it out"
            )

    def check_choice(self) -> None:
        """The figure that chooses the checkpoint must be one that the evaluation gives; asked of the first samples."""
        wanted = (self.args.metric_for_best_model or "").removeprefix("eval_")
        evaluates = self.prepared.validation is not None and self.args.eval_strategy != "no"
        if not evaluates or wanted in ("", "loss", self.prepared.select):
            return
        with undisturbed(self.model):
            _, logits, labels = self.prediction_step(self.model, self._probe(), prediction_loss_only=False)
            reduced = self._reduce(logits, labels)
        known = {"loss", *self.prepared.metrics("validation", nested_numpify(reduced), nested_numpify(labels))}
        if wanted not in known:
            names = choices(wanted, list(known))
            raise UserError(f"train.metric_for_best_model: the evaluation gives no '{wanted}'; {names}")

    def planned_steps(self) -> int:
        """Optimizer steps of the whole training."""
        if not isinstance(self.prepared.train, Sized):
            return int(self.args.max_steps)
        with seeded(self.args.seed):
            batches = len(self.get_train_dataloader())
        updates = math.ceil(batches / self.args.gradient_accumulation_steps)
        planned: int = self.args.max_steps
        if planned <= 0:
            planned = math.ceil(self.args.num_train_epochs * updates)
        if batches == 0 or planned < 1:
            raise UserError("train: the data give no optimizer step; lower the batch size or raise num_train_epochs")
        return planned

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """With train_sampling_strategy "group_by_length", batches of one length."""
        data = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(data, Sized):
            return super()._get_train_sampler(train_dataset)
        name = self.processing_class.model_input_names[0]
        lengths = [len(data[index][name]) for index in range(len(data))]  # type: ignore[index]
        return OneLength(lengths, batch=self.args.train_batch_size * self.args.world_size, seed=self.args.seed)

    def first_batch(self) -> dict[str, Any]:
        """The batch that a training begins with."""
        with seeded(self.args.seed):
            return dict(self._prepare_inputs(next(iter(self.get_train_dataloader()))))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        with self._all_in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        with self._all_in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _all_in_order(self) -> Iterator[None]:
        """What is evaluated keeps its order and its last batch, whatever the training does: predictions are numbered.

        transformers takes `train_sampling_strategy` and `dataloader_drop_last` for both.
        """
        args = self.args
        before = args.train_sampling_strategy, args.dataloader_drop_last
        args.train_sampling_strategy, args.dataloader_drop_last = "random", False
        try:
            yield
        finally:
            args.train_sampling_strategy, args.dataloader_drop_last = before

    # Training

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
        """The model's own loss, or in training what the task minimises in its place, scaled alike."""
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.mark.paused(), seeded(self.args.seed):
            self._split = "validation"
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            value = self._figures.get((self.args.metric_for_best_model or "").removeprefix("eval_"))
            if value is not None and not math.isfinite(value):
                name = self.args.metric_for_best_model
                raise RunFailed(f"stopped at step {self.state.global_step}: the validation {name} is {value}")
            return metrics

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.mark.paused():
            super()._save_checkpoint(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        entry: dict[str, float] = {}
        if "loss" in logs:
            with self.mark.paused():
                logs |= self._training_figures(logs)
                names = {"loss": "train.loss", "grad_norm": "train.grad_norm", "learning_rate": "train.learning_rate"}
                names["tokens_per_second"] = "train.tokens_per_second"
                entry = {names.get(key, key): value for key, value in logs.items()}
        elif any(key.startswith("eval_") for key in logs):
            entry = {f"validation.{name}": value for name, value in self._figures.items()}
        super().log(logs, start_time)
        if entry and self.folder and self.is_world_process_zero():
            self.folder.append({"step": self.state.global_step, "epoch": self.state.epoch, **entry})

    def _training_figures(self, logs: Mapping[str, float]) -> dict[str, float]:
        """The loss over the steps since the last line, as if the run had never been interrupted; speed; firing."""
        total, steps = self.mark.take_loss()
        mean = self.accelerator.reduce(total.to(self.args.device), reduction="mean")
        figures = {"loss": float(mean) / max(steps, 1)}
        seconds, tokens = self._counted
        self._counted = (self.mark.busy_seconds, self.mark.tokens)
        if self.mark.busy_seconds > seconds:
            figures["tokens_per_second"] = (self.mark.tokens - tokens) / (self.mark.busy_seconds - seconds)
        if self._measures:
            self.monitor.reset()
            with undisturbed(self.model), self.monitor.recording():
                self.model(**self._probe())
            figures |= self.monitor.figures()
        return figures

    def resume_counting(self, checkpoint: Path) -> None:
        self.mark.restore(checkpoint)
        self._counted = (self.mark.busy_seconds, self.mark.tokens)

    # Figures

    def figures(self, split: str, data: MapDataset) -> dict[str, float]:
        """The task's figures on a split, exact over the whole of it; what it reduced is kept in `reduced`."""
        self._split = split
        self._figures = {}
        with seeded(self.args.seed):
            self.predict(data, metric_key_prefix=split)
        if not self._figures:
            raise RunFailed(f"{split}: the model returned no logits, or the batches hold no labels")
        bad = {name: value for name, value in self._figures.items() if not math.isfinite(value)}
        if bad:
            raise RunFailed(f"{split}: " + ", ".join(f"{name} is {value}" for name, value in bad.items()))
        return dict(self._figures)

    def predicted(self, split: str, data: MapDataset) -> None:
        """Fill `reduced` with what the task makes of the outputs on data that may have no labels."""
        self._split = split
        with seeded(self.args.seed):
            found = self.predict(data, metric_key_prefix=split)
        self.reduced, self.labels = found.predictions, found.label_ids

    def firing(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures of `measure`, and those of the firing during it."""
        if not self._measures:
            return measure()
        self.monitor.reset()
        with self.monitor.recording():
            found = measure()
        self.monitor.combine(lambda tensor: self.accelerator.reduce(tensor, reduction="sum"))
        return found | self.monitor.figures()

    def energy(self, data: MapDataset) -> dict[str, float]:
        """What the first samples of `data` cost, one by one, so without padding."""
        if not self._measures_energy:
            return {}
        return energy(self.model, (self._batch(data, 1, first) for first in range(min(_COSTED, len(data)))))

    def raster(self) -> dict[str, Tensor]:
        """Layer -> spikes [steps, channels] of the first validation (or else training) sample."""
        if not self._measures_raster:
            return {}
        self.monitor.reset()
        with undisturbed(self.model), self.monitor.recording(keep=True):
            self.model(**self._batch(self._watched, 1))
        return self.monitor.raster()

    def chosen_step(self) -> int:
        """The step whose weights the model has after training."""
        best: int | None = self.state.best_global_step
        loaded = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        return best if loaded and best else int(self.state.global_step)

    def release_objective(self) -> None:
        """The model alone is stored and tested."""
        if self.objective is not None:
            del self.model.objective
            self.objective = None

    def release_cache(self) -> None:
        """The Trainer turns `use_cache` off in the config; a stored model shall generate with its cache."""
        if self._use_cache is not None:
            self.model.config.use_cache = self._use_cache
        else:
            vars(self.model.config).pop("use_cache", None)

    def _metrics(self, prediction: Any) -> dict[str, float]:
        self.reduced = prediction.predictions
        self.labels = prediction.label_ids
        found = self.prepared.metrics(self._split, self.reduced, self.labels)
        self._figures = {name: float(value) for name, value in found.items()}
        return dict(self._figures)

    def _reduce(self, logits: Any, labels: Any) -> Any:
        if isinstance(labels, tuple):
            return self.prepared.reduce(logits[: len(labels)], labels)
        return self.prepared.reduce(logits[0] if isinstance(logits, tuple) else logits, labels)

    def _probe(self) -> dict[str, Any]:
        if self._probe_batch is None:
            self._probe_batch = self._batch(self._watched, _PROBE)
        return self._probe_batch

    @property
    def _watched(self) -> Any:
        """The validation data, or the training data where there are none."""
        return self.prepared.validation if self.prepared.validation is not None else self.prepared.train

    def _batch(self, data: Any, size: int, first: int = 0) -> dict[str, Any]:
        """`size` samples of data as one batch, or as many as there are, from number `first` on."""
        endless = not hasattr(data, "__len__")
        with seeded(self.args.seed):
            stop = first + size
            chosen: Any = (
                list(islice(data, first, stop)) if endless else Subset(data, range(first, min(stop, len(data))))
            )
            loader = self.get_test_dataloader(chosen)
            batch = self._prepare_inputs(next(iter(loader)))
            # several processes fill their batches up with samples that come again
            return {name: x[:size] if isinstance(x, Tensor) else x for name, x in batch.items()}


def _collate(prepared: Prepared) -> Any:
    """The task's own; None lets transformers pad, which it cannot with a tokenizer that has no padding."""
    if prepared.collate is None and prepared.tokenizer.pad_token is None:
        return default_data_collator
    return prepared.collate


def final_figures(trainer: RunTrainer, folder: RunFolder | None) -> dict[str, float]:
    """`validation.*` and the test splits' figures, firing and energy on test data. folder: where predictions go."""
    prepared = trainer.prepared
    found: dict[str, float] = {}
    if prepared.validation is not None:
        found |= _prefixed("validation", trainer.figures("validation", prepared.validation))

    def tests() -> dict[str, float]:
        figures: dict[str, float] = {}
        for split, data in prepared.tests.items():
            figures |= _prefixed(split, trainer.figures(split, data))
            if folder:
                _store_predictions(trainer, split, folder)
        return figures

    found = trainer.firing(tests) | found
    if prepared.tests:
        found |= trainer.energy(next(iter(prepared.tests.values())))
    for split, data in prepared.unlabelled.items():
        trainer.predicted(split, data)
        if folder:
            _store_predictions(trainer, split, folder)
    if prepared.baselines is not None:
        for name, figures in prepared.baselines().items():
            found |= _prefixed(f"baseline.{name}", figures)
    return found


def _prefixed(split: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}.{name}": value for name, value in figures.items()}


def _store_predictions(trainer: RunTrainer, split: str, folder: RunFolder) -> None:
    folder.predictions.mkdir(exist_ok=True)
    if trainer.prepared.predictions is not None:
        texts = trainer.prepared.predictions(split, trainer.reduced, trainer.labels)
        for name, text in texts.items():
            (folder.predictions / name).write_text(text, encoding="utf-8")
        return
    arrays = trainer.reduced if isinstance(trainer.reduced, tuple) else (trainer.reduced,)
    np.savez_compressed(folder.predictions / f"{split}.npz", *arrays)
