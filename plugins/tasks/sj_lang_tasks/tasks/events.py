"""Classify recordings of event cameras."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, Prepared, Task
from sj_lang_tasks.data import images, recordings, saccades
from sj_lang_tasks.data.cuts import check_shares, parted
from sj_lang_tasks.data.images import ImageSet
from sj_lang_tasks.data.recordings import Recordings
from sj_lang_tasks.tasks.images import metrics, reduce

SEED = 0  # of the recordings, which are the same for every seed of a run


class EventClassification(Task):
    """Classify T frames of counted events, ON and OFF in two channels.

    data: images, as `image_classification` takes them; a camera that moves in front of them along a
        triangle records their events (`sj_lang_tasks.data.saccades`). With `recordings` a folder
        whose folder `download` has the published files.
    recordings: a data set of SpikingJelly in the place of images; None: images.
    steps: T, frames of a recording.
    min_steps: recordings end after a number of frames between this and `steps`, drawn for each, as
        those of JapaneseVowels do; batches then hold padding and a mask. None: all have T.
    threshold: change of the logarithm of the brightness that is an event.
    amplitude: of the triangle, in pixels.
    size: height and width to which recordings are averaged; None: as they are.
    test, validation: what is cut from train if the data lack it: a share, or from 1 on a number;
        test first, at random and the same for every seed. validation 0: none.

    Figures: `loss` in nats, `accuracy`.
    """

    auto_class = "AutoModelForImageClassification"
    causal = False
    tokenizes = False

    def __init__(
        self,
        *,
        data: Data | None = "digits",  # type: ignore[assignment]
        recordings: Recordings | None = None,
        steps: int = 10,
        min_steps: int | None = None,
        threshold: float = 0.4,
        amplitude: float = 2.0,
        size: int | None = None,
        test: float = 0.2,
        validation: float = 0.1,
    ) -> None:
        check_shares(test=test, validation=validation)
        if steps < 2:
            raise UserError(f"task.steps is {steps}; T = 1 leaves a neuron nothing to remember, expected 2 or more")
        if min_steps is not None and not 1 <= min_steps <= steps:
            raise UserError(f"task.min_steps is {min_steps}; expected 1 to {steps}, which task.steps is")
        for name, value in (("threshold", threshold), ("amplitude", amplitude)):
            if not 0 < value < float("inf"):
                raise UserError(f"task.{name} is {value}; expected more than 0")
        if size is not None and size < 1:
            raise UserError(f"task.size is {size}; expected 1 or more")
        self.data: Any = data
        self.recordings = recordings
        self.steps, self.min_steps = steps, min_steps
        self.threshold, self.amplitude, self.size = threshold, amplitude, size
        self.test, self.validation = test, validation
        self.pads = min_steps is not None

    def prepare(self, tokenizer: MakeTokenizer | None, *, seed: int) -> Prepared:
        """Read, cut and record. seed: not needed, as recordings and cuts are the same for every
        seed."""
        frames, labels, names, fingerprint, notes = self._recorded() if self.recordings else self._from_images()
        parts = {
            part: EventFrames(frames[part], labels[part], self._lengths(len(labels[part]), number), self.size)
            for number, part in enumerate(frames)
        }
        shape = parts["train"][0]["pixel_values"].shape
        return Prepared(
            train=parts["train"],
            validation=parts.get("validation"),
            tests={"test": parts["test"]},
            reduce=reduce,
            metrics=metrics,
            collate=pad if self.pads else None,
            label_names=["labels"],
            model={
                "id2label": dict(enumerate(names)),
                "label2id": {name: number for number, name in enumerate(names)},
                "height": shape[2],
                "width": shape[3],
            },
            select="accuracy",
            greater_is_better=True,
            loss="mean negative log likelihood of a recording, in nats",
            fingerprint={"data": self.data, **fingerprint},
            notes=[f"T = {self.steps} frames of 2 x {shape[2]} x {shape[3]}, {len(names)} classes", *notes],
        )

    def outline(self) -> Mapping[str, Any]:
        if self.recordings is None:
            return {}
        camera = recordings.SETS[self.recordings]
        side = self.size or camera.size
        return {"num_labels": camera.classes, "height": side, "width": side}

    def _from_images(self) -> Any:
        if self.data is None:
            raise UserError("task.data is not set: name a source, a folder of idx files, or hub:owner/name")
        sets, names = images.read(self.data)
        parts, notes = parted(sets, test=self.test, validation=self.validation, what="images")
        frames = {name: self._events(part, SEED + number) for number, (name, part) in enumerate(parts.items())}
        mean = float(frames["train"].mean() * self.steps)
        if not mean:
            raise UserError(
                f"task.threshold is {self.threshold:g}: no image of train has an event; lower it or raise "
                "task.amplitude"
            )
        notes.append(f"{mean:.2f} events a pixel and channel in a recording")
        fingerprint = {name: part.fingerprint() for name, part in parts.items()}
        return frames, {name: part.labels for name, part in parts.items()}, names, fingerprint, notes

    def _events(self, part: ImageSet, seed: int) -> NDArray[np.uint8]:
        grey = part.pixels.mean(1).round().astype(np.uint8)
        grey = (grey * (255.0 / max(grey.max(), 1))).astype(np.uint8)
        options = {"steps": self.steps, "threshold": self.threshold, "amplitude": self.amplitude}
        return saccades.record(grey, **options, seed=seed)  # type: ignore[arg-type]

    def _recorded(self) -> Any:
        assert self.recordings is not None
        if self.data is not None and not isinstance(self.data, str):
            raise UserError(f"task.data: with task.recordings={self.recordings} expected a folder")
        read = recordings.read(self.recordings, self.data, steps=self.steps)
        sets = {name: Chosen(part, np.arange(len(part))) for name, part in read.items()}
        frames, notes = parted(sets, test=self.test, validation=self.validation, what="recordings")
        labels = {name: part.labels() for name, part in frames.items()}
        sizes = {name: len(part) for name, part in frames.items()}
        names = list(frames["train"].data.classes)
        return frames, labels, names, {"recordings": self.recordings, **sizes}, notes

    def _lengths(self, count: int, number: int) -> NDArray[np.int64]:
        least = self.steps if self.min_steps is None else self.min_steps
        return np.random.default_rng((SEED, number)).integers(least, self.steps + 1, count)


class Chosen:
    """The frames of chosen recordings of a data set of SpikingJelly."""

    def __init__(self, data: Any, numbers: NDArray[np.int64]) -> None:
        self.data, self.numbers = data, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.data[int(self.numbers[index])][0]

    def rows(self, chosen: NDArray[np.int64]) -> "Chosen":
        return Chosen(self.data, self.numbers[chosen])

    def labels(self) -> NDArray[np.int64]:
        return np.array([self.data.targets[number] for number in self.numbers])


class EventFrames:
    """Items `{"pixel_values": [T, 2, H, W], "labels": number}`; T is the recording's own length."""

    def __init__(self, frames: Any, labels: NDArray[np.int64], lengths: NDArray[np.int64], size: int | None) -> None:
        self.frames, self.labels, self.lengths, self.size = frames, labels, lengths, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"recording {index} of {len(self)}")
        counts = np.asarray(self.frames[index], dtype=np.float32)[: self.lengths[index]]
        frames = torch.from_numpy(np.ascontiguousarray(counts))
        if self.size is not None:
            frames = nn.functional.adaptive_avg_pool2d(frames, self.size)
        return {"pixel_values": frames, "labels": int(self.labels[index])}


def pad(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of recordings; `attention_mask` `[B, T]` is 1 where a recording has a frame."""
    frames = [item["pixel_values"] for item in items]
    lengths = torch.tensor([len(one) for one in frames])
    return {
        "pixel_values": nn.utils.rnn.pad_sequence(frames, batch_first=True),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        "labels": torch.tensor([item["labels"] for item in items]),
    }
