"""Images as sequences: files, cuts, figures, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_idx, write_images
from sj_lang_tasks.data import idx
from sj_lang_tasks.models.sequence_cnn import SequenceCNNConfig, SequenceCNNForImageClassification
from sj_lang_tasks.tasks import images
from sj_lang_tasks.tasks.images import ImageClassification

from sj_lang.errors import Unreachable, UserError
from sj_lang.testing.models import check_task

LABELS = [0, 1, 2] * 10


def model(ready: object) -> SequenceCNNForImageClassification:
    fields = ready.model  # type: ignore[attr-defined]
    return SequenceCNNForImageClassification(SequenceCNNConfig(**fields, channels=4, layers=1, stages=1))


def test_the_task_passes_its_kit() -> None:
    assert check_task(lambda: ImageClassification(data="digits"), tokenizer=None, model=model)


def test_columns_and_pixels(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    columns = ImageClassification(data=str(folder)).prepare(None, seed=0)
    pixels = ImageClassification(data=str(folder), order="pixels").prepare(None, seed=0)
    one, other = columns.train[3]["pixel_values"], pixels.train[3]["pixel_values"]
    assert (one.shape, other.shape) == ((5, 1, 6), (30, 1, 1))
    assert torch.equal(one.permute(1, 2, 0).flatten(), other.flatten())
    assert (columns.model["height"], pixels.model["height"]) == (6, 1)
    whole = torch.stack([columns.train[i]["pixel_values"] for i in range(len(columns.train))])
    assert abs(float(whole.mean())) < 1e-5
    assert abs(float(whole.std()) - 1) < 1e-2


def test_a_single_pair_is_cut_alike_for_every_seed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    one, other = (ImageClassification(data=str(folder)).prepare(None, seed=seed) for seed in (0, 1))
    assert [len(part) for part in (one.train, one.validation, one.tests["test"])] == [21, 3, 6]
    assert one.fingerprint == other.fingerprint


def test_parts_of_a_folder_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 30), ("validation", 6), ("t10k", 9)):
        write_images(tmp_path / "data", part, LABELS[:count])
    ready = ImageClassification(data=str(tmp_path / "data")).prepare(None, seed=0)
    assert [len(part) for part in (ready.train, ready.validation, ready.tests["test"])] == [30, 6, 9]


def test_colours_and_labels_with_gaps(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", "any", [2, 4, 6] * 10, size=(6, 5, 3))
    ready = ImageClassification(data=str(folder)).prepare(None, seed=0)
    assert ready.train[0]["pixel_values"].shape == (5, 3, 6)
    assert ready.model["id2label"] == {0: "2", 1: "4", 2: "6"}
    assert {ready.train[i]["labels"] for i in range(21)} == {0, 1, 2}


def test_figures() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
    reduced = [one.numpy() for one in images.reduce(logits, torch.tensor([1, 1, 1]))]
    figures = images.metrics("test", reduced, None)
    losses = [np.log(2), np.log(1 + np.exp(-3)), np.log(1 + np.exp(2))]
    assert figures["loss"] == pytest.approx(np.mean(losses))
    assert figures["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixed_images_have_shares_of_both_labels(tmp_path: Path, option: str) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    ready = ImageClassification(data=str(folder), **{option: 1.0}).prepare(None, seed=0)
    plain = ImageClassification(data=str(folder)).prepare(None, seed=0)
    item, again, before = ready.train[4], ready.train[4], plain.train[4]
    assert torch.equal(item["pixel_values"], again["pixel_values"])
    assert float(item["labels"].sum()) == pytest.approx(1)
    assert item["labels"][before["labels"]] > 0
    ready.train.set_epoch(1)
    assert not torch.equal(item["pixel_values"], ready.train[4]["pixel_values"])
    assert ready.validation is not None
    assert isinstance(ready.validation[0]["labels"], int)  # only training images are mixed


def test_the_share_of_a_rectangle_is_its_area() -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        image, share = images._with_rectangle(
            np.zeros((1, 8, 6), np.float32), np.ones((1, 8, 6), np.float32), 0.4, draw
        )
        assert 1 - image.mean() == pytest.approx(share)


def prepare(place: object, **options: object) -> None:
    ImageClassification(data=str(place), **options).prepare(None, seed=0)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "train", LABELS)
    write_images(tmp_path / "data", "t10k", LABELS, size=(5, 5))
    with pytest.raises(UserError, match=r"images of train are 1 x 6 x 5 .* those of test 1 x 5 x 5"):
        prepare(tmp_path / "data")


def test_another_number_of_labels_is_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    write_idx(folder / "any-labels-idx1-ubyte", np.zeros(29, np.uint8))
    with pytest.raises(UserError, match="holds 30 images, but any-labels-idx1-ubyte 29 labels"):
        prepare(folder)


def test_a_single_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 pixel wide, so T = 1"):
        prepare(write_images(tmp_path / "data", "any", LABELS, size=(6, 1)))


def test_a_label_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "train", LABELS)
    write_images(tmp_path / "data", "t10k", [0, 5])
    with pytest.raises(UserError, match="test has the label 5, which no training image has"):
        prepare(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"PK\x03\x04 a zip file", "is not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "type 0x0d; expected unsigned bytes"),
        (b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02abc", "3 bytes after its header, which says 2 x 2 x 2 = 8"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=message):
        idx.read(tmp_path / "images-idx3-ubyte")


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images; expected files named as MNIST's"):
        prepare(tmp_path)
    folder = write_images(tmp_path / "data", "any", LABELS)
    (folder / "any-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has no labels beside it; expected any-labels-idx1-ubyte"):
        prepare(folder)
    (folder / "any-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match="cannot be read"):
        prepare(folder)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    with pytest.raises(UserError, match=r"task.mixup is -1"):
        ImageClassification(mixup=-1)
    with pytest.raises(UserError, match=r"task.test is 30, of 30 images"):
        prepare(folder, test=30)
    with pytest.raises(UserError, match=r"the source 'python-docs' has no images"):
        prepare("python-docs")
    with pytest.raises(UserError, match="all images have the label 3"):
        prepare(write_images(tmp_path / "one", "any", [3] * 9))


def test_without_a_network_the_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="give a folder of idx files"):
        prepare("hub:uoft-cs/cifar10")
