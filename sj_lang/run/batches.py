"""The batches of a run: evaluations keep the data's order, trainings may ask for one length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from sj_lang.hf import shield
from sj_lang.monitor import seeded
from sj_lang.run.lengths import OneLength

shield()

from transformers import Trainer  # noqa: E402

_PROBE = 8  # samples on which a model is tried before its training


class BatchTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """transformers' Trainer with the samplers and loaders of a run."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """With train_sampling_strategy "group_by_length", batches of one length."""
        data = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(data, Sized):
            return super()._get_train_sampler(train_dataset)
        tokenizer = self.processing_class
        name = self.model.main_input_name if tokenizer is None else tokenizer.model_input_names[0]
        lengths = [len(data[index][name]) for index in range(len(data))]  # type: ignore[index]
        return OneLength(lengths, batch=self.args.train_batch_size * self.args.world_size, seed=self.args.seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        with self._all_in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        with self._all_in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _all_in_order(self) -> Iterator[None]:
        """Evaluated data keep their order and their last batch, because predictions are numbered.

        transformers applies `train_sampling_strategy` and `dataloader_drop_last` to evaluations
        too.
        """
        args = self.args
        before = args.train_sampling_strategy, args.dataloader_drop_last
        args.train_sampling_strategy, args.dataloader_drop_last = "random", False
        try:
            yield
        finally:
            args.train_sampling_strategy, args.dataloader_drop_last = before

    def first_batch(self) -> dict[str, Any]:
        """The first batch of the training."""
        with seeded(self.args.seed):
            return dict(self._prepare_inputs(next(iter(self.get_train_dataloader()))))

    @property
    def probed_data(self) -> Any:
        """The validation data, or the training data if there are none."""
        return self.train_dataset if self.eval_dataset is None else self.eval_dataset

    @cached_property
    def probe(self) -> dict[str, Any]:
        """The samples on which checks and measurements run during the training."""
        return self.samples(self.probed_data, _PROBE)

    def samples(self, data: Any, size: int, first: int = 0) -> dict[str, Any]:
        """`size` samples of `data` as a batch, or as many as there are, from number `first` on."""
        stop = first + size
        with seeded(self.args.seed):
            part: Any = (
                Subset(data, range(first, min(stop, len(data))))
                if hasattr(data, "__len__")
                else list(islice(data, first, stop))
            )
            batch = self._prepare_inputs(next(iter(self.get_test_dataloader(part))))
        # several processes repeat samples to fill their batches
        return {name: x[:size] if isinstance(x, Tensor) else x for name, x in batch.items()}


def split_figures(split: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The task's figures on a split, "validation.loss" ..., among the metrics of an evaluation."""
    return {name: value for name, value in metrics.items() if name.startswith(f"{split}.")}
