"""Classify images that are read as sequences."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sj_lang.component.schema import Data
from sj_lang.errors import UserError
from sj_lang.task import MakeTokenizer, NumberedEpochs, Prepared, Task
from sj_lang_tasks.data import images
from sj_lang_tasks.data.cuts import check_shares, parted
from sj_lang_tasks.data.images import ImageSet

Order = Literal["columns", "pixels"]


class ImageClassification(Task):
    """Read images as sequences and classify them.

    data: a registered source with images (`digits`), a folder of idx files as MNIST's, one such
        file of images, hub:owner/name[/config], or a mapping of train, validation and test to
        files.
    order: "columns": a step is a column of the image, T = its width, with its height as a second
        axis. "pixels": a step is one pixel, row by row, T = width times height.
    test, validation: what is cut from train if the data lack it: a share, or from 1 on a number of
        images; test first. The cut is at random and the same for every seed. Validation chooses
        the checkpoint, test is looked at once. validation 0: none.
    mixup: alpha of the Beta distribution of the shares with which two training images are mixed;
        0: none.
    cutmix: the same for the area of a rectangle that is taken from another training image. With
        both, each image gets one of the two, by chance.

    Pixels are shifted and scaled to mean 0 and deviation 1 of each channel of train. Figures:
    `loss` in nats, `accuracy`.
    """

    auto_class = "AutoModelForImageClassification"
    causal = False
    pads = False
    tokenizes = False

    def __init__(
        self,
        *,
        data: Data | None = "digits",  # type: ignore[assignment]
        order: Order = "columns",
        test: float = 0.2,
        validation: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        check_shares(test=test, validation=validation, mixup=mixup, cutmix=cutmix)
        self.data: Any = data
        self.order, self.test, self.validation = order, test, validation
        self.mixup, self.cutmix = mixup, cutmix

    def prepare(self, tokenizer: MakeTokenizer | None, *, seed: int) -> Prepared:
        """Read, cut and scale. seed: of mixup and cutmix; the cuts are the same for every seed."""
        if self.data is None:
            raise UserError("task.data is not set: name a source, a folder of idx files, or hub:owner/name")
        sets, names = images.read(self.data)
        parts, notes = parted(sets, test=self.test, validation=self.validation, what="images")
        channels, height, width = parts["train"].pixels.shape[1:]
        steps = width if self.order == "columns" else height * width
        if steps < 2:
            raise UserError(
                f"task.data: the images are {width} pixel wide, so T = {steps}: a neuron needs 2 steps or more "
                "(task.order=pixels makes each pixel a step)"
            )
        pixels = parts["train"].pixels
        mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        scaled = {
            name: Sequences(part, len(names), order=self.order, mean=mean, deviation=np.maximum(deviation, 1e-6))
            for name, part in parts.items()
        }
        train: Sequences | Mixed = scaled["train"]
        if self.mixup or self.cutmix:
            train = Mixed(scaled["train"], mixup=self.mixup, cutmix=self.cutmix, seed=seed)
        return Prepared(
            train=train,
            validation=scaled.get("validation"),
            tests={"test": scaled["test"]},
            reduce=reduce,
            metrics=metrics,
            label_names=["labels"],
            model={
                "id2label": dict(enumerate(names)),
                "label2id": {name: number for number, name in enumerate(names)},
                "num_channels": channels,
                "height": height if self.order == "columns" else 1,
            },
            select="accuracy",
            greater_is_better=True,
            loss="mean negative log likelihood of an image, in nats",
            fingerprint={"data": self.data, **{name: part.fingerprint() for name, part in parts.items()}},
            notes=[f"{channels} x {height} x {width} pixels, {len(names)} classes; T = {steps} steps", *notes],
        )


class Sequences:
    """Items `{"pixel_values": [T, C, H], "labels": number}` of an image set."""

    def __init__(
        self, part: ImageSet, classes: int, *, order: Order, mean: NDArray[np.float64], deviation: NDArray[np.float64]
    ) -> None:
        self.classes, self.order = classes, order
        self._part = part
        self._mean, self._deviation = (x.astype(np.float32)[:, None, None] for x in (mean, deviation))

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.image(index)
        return {"pixel_values": self.sequence(image), "labels": label}

    def image(self, index: int) -> tuple[NDArray[np.float32], int]:
        """The scaled image `[C, H, W]` and the number of its class."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return (self._part.pixels[index] - self._mean) / self._deviation, int(self._part.labels[index])

    def sequence(self, image: NDArray[np.float32]) -> Tensor:
        """`[C, H, W]` to `[T, C, H]`: columns from left to right, or pixels row by row, H = 1."""
        columns = image if self.order == "columns" else image.reshape(len(image), 1, -1)
        return torch.from_numpy(np.ascontiguousarray(columns.transpose(2, 0, 1)))


class Mixed(NumberedEpochs):
    """Training images mixed with others, drawn anew in each epoch; labels are shares `[classes]`.

    mixup: x = r x + (1 - r) x', r ~ Beta(mixup, mixup) (arXiv 1710.09412). cutmix: a rectangle of
    the area 1 - r of x' in x, r ~ Beta(cutmix, cutmix) (arXiv 1905.04899).
    """

    def __init__(self, plain: Sequences, *, mixup: float, cutmix: float, seed: int) -> None:
        self.plain, self.mixup, self.cutmix, self.seed = plain, mixup, cutmix, seed

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw = np.random.default_rng((self.seed, self.epoch, index))
        image, label = self.plain.image(index)
        other, other_label = self.plain.image(int(draw.integers(len(self))))
        cuts = bool(self.cutmix) and (not self.mixup or draw.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = float(draw.beta(alpha, alpha))
        if cuts:
            image, share = _with_rectangle(image, other, share, draw)
        else:
            image = share * image + (1 - share) * other
        labels = torch.zeros(self.plain.classes)
        labels[label] += share
        labels[other_label] += 1 - share
        return {"pixel_values": self.plain.sequence(image.astype(np.float32)), "labels": labels}


def _with_rectangle(
    image: NDArray[np.float32], other: NDArray[np.float32], share: float, draw: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """The image with a rectangle of the other, and the share of the image that is left."""
    height, width = image.shape[1:]
    side = (1 - share) ** 0.5 / 2
    middle = draw.random(2) * (height, width)
    reach = np.array((height, width)) * side
    low, high = np.maximum(middle - reach, 0).astype(int), np.minimum(middle + reach, (height, width)).astype(int)
    image = image.copy()
    image[:, low[0] : high[0], low[1] : high[1]] = other[:, low[0] : high[0], low[1] : high[1]]
    return image, 1 - float(np.prod(high - low)) / (height * width)


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (nats) and hit of each image, `[B]` each. logits `[B, classes]`, labels `[B]`."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none"), logits.argmax(-1) == labels


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    """Figures of a split from what `reduce` gave."""
    loss, hits = (np.asarray(part, dtype=np.float64) for part in reduced)
    return {"loss": float(loss.mean()), "accuracy": float(hits.mean())}
