"""How a network fires and what it costs, if the recipe's `measure:` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor

from sj_lang.energy import Ledger, ledger
from sj_lang.monitor import Monitor, decay_histograms, decays, undisturbed
from sj_lang.run.ablation import ModulesByPart, ablated, parts_of
from sj_lang.run.batches import BatchTrainer
from sj_lang.task import MapDataset

_WATCHED = 2  # samples on which firing is measured during the training
#: optimizer steps from one look at them to the next, so that looks take below 3 % of the time
_APART = 10
_COSTED = 32  # test samples on which energy is measured


class Measurements:
    """Measurements on the model of a trainer. measure: the recipe's section.

    ledger: what `energy` has measured last; None: nothing.
    """

    def __init__(self, trainer: BatchTrainer, measure: Mapping[str, Any]) -> None:
        self._trainer = trainer
        self._monitor = Monitor(trainer.model)
        fires = bool(self._monitor.nodes)
        self._measures_firing = measure["firing_rate"] and fires
        self._measures_raster = measure["raster"] and fires
        self._measures_energy = measure["energy"]
        self._costs: str = measure["costs"]
        each_layer = measure["ablate"] == "layers"
        self._ablated: ModulesByPart = parts_of(trainer.model, each_layer=each_layer) if measure["ablate"] else {}
        self.ledger: Ledger | None = None

    @staticmethod
    def is_due(step: int, since: int, last: int) -> bool:
        """Whether a line of the log at `step` looks at the firing. since: the step of the line
        before. last: the last step, which always does."""
        return step // _APART > since // _APART or step >= last

    def probe(self) -> dict[str, float]:
        """Firing on the first samples of the probed data."""
        if not self._measures_firing:
            return {}
        self._monitor.reset()
        with undisturbed(self._trainer.model), self._monitor.recording():
            self._trainer.model(**self._watched)
        return self._monitor.figures()

    def decays(self) -> dict[str, Tensor]:
        """Layer -> what its channels keep of their state from step to step."""
        return decays(self._trainer.model) if self._measures_firing else {}

    def decay_histograms(self) -> dict[str, list[int]]:
        """The same as counts of channels, for a line of metrics.jsonl."""
        return decay_histograms(self._trainer.model) if self._measures_firing else {}

    @cached_property
    def _watched(self) -> dict[str, Any]:
        return self._trainer.samples(self._trainer.probed_data, _WATCHED)

    @cached_property
    def _shown(self) -> dict[str, Any]:
        return self._trainer.samples(self._trainer.probed_data, 1)

    @contextmanager
    def firing(self, figures: dict[str, float]) -> Iterator[None]:
        """Add the firing during the context, summed over all processes, to `figures`."""
        if not self._measures_firing:
            yield
            return
        self._monitor.reset()
        with self._monitor.recording():
            yield
        accelerator = self._trainer.accelerator
        self._monitor.combine(lambda tensor: accelerator.reduce(tensor, reduction="sum"), accelerator.gather)
        figures |= self._monitor.figures()

    def energy(self, data: MapDataset) -> dict[str, float]:
        """The cost of the first samples of `data`, one by one and therefore without padding."""
        if not self._measures_energy:
            return {}
        trainer, count = self._trainer, min(_COSTED, len(data))
        samples = (trainer.samples(data, 1, first) for first in range(count))
        self.ledger = ledger(trainer.model, samples, costs=self._costs)
        return self.ledger.figures()

    def ablation(self, data: MapDataset, split: str) -> dict[str, float]:
        """The task's figures on a split without each part of the model."""
        return ablated(self._trainer, data, split, self._ablated) if self._ablated else {}

    def raster(self) -> dict[str, Tensor]:
        """Layer -> spikes [steps, channels] of the first sample of the probed data."""
        if not self._measures_raster:
            return {}
        self._monitor.reset()
        with undisturbed(self._trainer.model), self._monitor.recording(keep=True):
            self._trainer.model(**self._shown)
        return self._monitor.raster()

    def raster_text(self) -> str:
        """The text of that sample; "" if it is no text."""
        tokenizer, ids = self._trainer.processing_class, self._shown.get("input_ids")
        return "" if tokenizer is None or ids is None else str(tokenizer.decode(ids[0], skip_special_tokens=True))

    def tokens(self) -> list[str]:
        """The tokens of that sample; empty if it is no text."""
        tokenizer = self._trainer.processing_class
        if not self._measures_raster or tokenizer is None:
            return []
        ids = self._shown.get("input_ids")
        return [] if ids is None else [tokenizer.decode([one]) for one in ids[0].tolist()]
