"""Events of images and recordings: the generator's equations, lengths, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_images
from sj_lang_tasks.data import saccades
from sj_lang_tasks.models.event_cnn import EventCNNConfig, EventCNNForImageClassification
from sj_lang_tasks.tasks.events import EventClassification

from sj_lang import run
from sj_lang.energy import ledger
from sj_lang.errors import Unreachable, UserError
from sj_lang.recipe import load
from sj_lang.testing.models import check_task

LABELS = [0, 1, 2] * 10
OPTIONS = {"steps": 6, "threshold": 0.3, "amplitude": 1.5, "seed": 3}


def model(ready: object) -> EventCNNForImageClassification:
    fields = ready.model  # type: ignore[attr-defined]
    return EventCNNForImageClassification(EventCNNConfig(**fields, stages=[[4], [4]], head_size=8))


@pytest.mark.parametrize("options", [{}, {"min_steps": 2}], ids=["equal lengths", "own lengths"])
def test_the_task_passes_its_kit(tmp_path: Path, options: dict[str, int]) -> None:
    folder = write_images(tmp_path / "data", "any", LABELS)
    assert check_task(lambda: EventClassification(data=str(folder), steps=5, **options), tokenizer=None, model=model)


def test_events_follow_the_equations_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    counts = saccades.record(pixels, **OPTIONS)
    assert counts.shape == (3, 6, 2, 5, 4)
    ways = np.random.default_rng(OPTIONS["seed"]).integers(6, size=3)
    times = np.linspace(0, 1, 6 * saccades.MOMENTS + 1)
    for n in range(3):
        places = saccades.way(times, OPTIONS["amplitude"], *saccades.WAYS[ways[n]])
        for row in range(5):
            for column in range(4):
                level = None
                for moment, (x, y) in enumerate(places):
                    near_x, near_y = int(np.floor(column + x)), int(np.floor(row + y))
                    seen = 0.0
                    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        weight = abs(1 - i - (row + y - near_y)) * abs(1 - j - (column + x - near_x))
                        seen += weight * pixels[n, np.clip(near_y + i, 0, 4), np.clip(near_x + j, 0, 3)] / 255
                    bright = np.log(seen + 0.1)
                    if level is None:
                        level, events = bright, np.zeros((6, 2))
                        continue
                    number = np.trunc((bright - level) / OPTIONS["threshold"])
                    level += number * OPTIONS["threshold"]
                    events[(moment - 1) // saccades.MOMENTS, int(number < 0)] += abs(number)
                # float32 against float64
                assert np.abs(counts[n, :, :, row, column] - events).max() <= 1
    again, other = saccades.record(pixels, **OPTIONS), saccades.record(pixels, **{**OPTIONS, "seed": 4})
    assert np.array_equal(counts, again)
    assert not np.array_equal(counts, other)


def test_a_plain_image_has_no_events_and_the_camera_comes_back() -> None:
    assert not saccades.record(np.full((2, 4, 4), 99, np.uint8), **OPTIONS).any()
    start, end = saccades.way(np.array([0.0, 1.0]), 2.0, 1, -1)
    assert np.allclose(start, end)


def test_recordings_are_the_same_for_every_seed_of_a_run() -> None:
    one, other = (EventClassification().prepare(None, seed=seed) for seed in (0, 1))
    assert torch.equal(one.train[7]["pixel_values"], other.train[7]["pixel_values"])


def test_lengths_lie_between_min_steps_and_steps() -> None:
    ready = EventClassification(steps=7, min_steps=3).prepare(None, seed=0)
    lengths = {len(ready.train[i]["pixel_values"]) for i in range(60)}
    assert lengths == {3, 4, 5, 6, 7}
    batch = ready.collate([ready.train[i] for i in range(20)])  # type: ignore[misc]
    assert batch["attention_mask"].sum(1).tolist() == [len(ready.train[i]["pixel_values"]) for i in range(20)]


@pytest.mark.parametrize("neuron", [{"type": "dsn", "n": 4}, {"type": "lif", "v_threshold": 0.3}, None])
def test_padding_is_as_if_it_were_not_there(neuron: dict[str, object] | None) -> None:
    torch.manual_seed(0)
    options = {"twin": True} if neuron is None else {"neuron": neuron}
    net = EventCNNForImageClassification(
        EventCNNConfig(height=8, width=9, stages=[[4], [4]], head_size=8, num_labels=3, **options)
    )
    frames = torch.randint(0, 4, (2, 6, 2, 8, 9)).float()
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    frames[1, 4:] = 50.0  # what stands in padding never matters
    net.train()
    one = net(frames, attention_mask=mask)
    frames[1, 4:] = 0.0
    assert torch.equal(one.logits, net(frames, attention_mask=mask).logits)
    net.eval()
    both = net(frames, attention_mask=mask).logits
    alone = net(frames[1:, :4]).logits
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_every_product_takes_spikes_and_every_operation_is_counted() -> None:
    config = EventCNNConfig(height=8, width=8, stages=[[4]], neuron={"type": "dsn", "n": 4}, num_labels=3)
    frames = torch.randint(0, 4, (1, 5, 2, 8, 8)).float()
    book = ledger(EventCNNForImageClassification(config).eval(), {"pixel_values": frames})
    assert not book.uncounted
    assert book.impurities(strict=True) == []
    assert "energy.total_mj" in book.figures()


def test_vggsnn_has_eight_convolutions() -> None:
    stages = [[64, 128], [256, 256], [512, 512], [512, 512]]
    config = EventCNNConfig(height=48, width=48, stages=stages, neuron={"type": "dsn", "n": 1})
    assert config.last_size == (3, 3)
    assert sum(len(stage) for stage in config.stages) == 8
    with pytest.raises(UserError, match=r"frames of 4 x 9 cannot be pooled 3 times by 2"):
        EventCNNConfig(height=4, width=9, stages=[[4], [4], [4]])
    with pytest.raises(UserError, match=r"model.stages is \[\[4\], \[\]\]; expected lists of channels"):
        EventCNNConfig(height=8, width=8, stages=[[4], []])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, r"task.steps is 1; T = 1 leaves a neuron nothing"),
        ({"min_steps": 11}, r"task.min_steps is 11; expected 1 to 10"),
        ({"threshold": 0}, r"task.threshold is 0; expected more than 0"),
        ({"amplitude": -1}, r"task.amplitude is -1"),
        ({"size": 0}, r"task.size is 0"),
        ({"test": 0}, r"task.test is 0; expected a share"),
        ({"threshold": 9.0}, r"task.threshold is 9: no image of train has an event"),
        ({"data": None}, r"task.data is not set"),
        ({"data": {"train": "x"}, "recordings": "n_mnist"}, r"task.data: with task.recordings=n_mnist expected a fol"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EventClassification(**options).prepare(None, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n_mnist", "cifar10_dvs", "dvs128_gesture"])
def test_without_recordings_one_sentence_says_where_to_get_them(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torchvision", reason="SpikingJelly's data sets need torchvision")
    with pytest.raises(Unreachable, match=r"task.data is not set: get .* from http.*, put them into FOLDER/download"):
        EventClassification(data=None, recordings=name).prepare(None, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"download has no .*; get it from http"):
        EventClassification(data=str(tmp_path), recordings=name).prepare(None, seed=0)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())  # nothing is begun


def test_recordings_of_spikingjelly_are_read(tmp_path: Path) -> None:
    """A tiny N-MNIST as SpikingJelly leaves it after its first conversion."""
    pytest.importorskip("torchvision", reason="SpikingJelly's data sets need torchvision")
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for digit in range(2):
            folder = tmp_path / "events_np" / part / str(digit)
            folder.mkdir(parents=True)
            for number in range(6):
                events = {key: draw.integers(0, 34, 80) for key in ("x", "y")}
                np.savez(folder / f"{number}.npz", t=np.arange(80), p=draw.integers(0, 2, 80), **events)
    task = EventClassification(data=str(tmp_path), recordings="n_mnist", steps=4, size=17, validation=3)
    ready = task.prepare(None, seed=0)
    assert [len(part) for part in (ready.train, ready.validation, ready.tests["test"])] == [9, 3, 12]
    assert ready.train[0]["pixel_values"].shape == (4, 2, 17, 17)
    assert {ready.tests["test"][i]["labels"] for i in range(12)} == {0, 1}
    assert float(ready.train[0]["pixel_values"].sum()) == pytest.approx(80 / 4)  # means of 2 x 2


@pytest.mark.parametrize("name", ["events-n-mnist", "events-cifar10-dvs", "events-dvs128"])
def test_the_full_sizes_are_built_without_data(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision", reason="SpikingJelly's data sets need torchvision")
    run.execute(load(f"five/{name}", ["runs=null", "seeds=null", "model.neuron={type: dsn, n: 1}"]), dry_run=True)
    said = capsys.readouterr().out
    assert "NOT checked" in said
    assert "put them into FOLDER/download" in said


def test_psn_is_refused_where_recordings_have_own_lengths() -> None:
    changes = ["runs=null", "seeds=null", "task.min_steps=4", "model.neuron={type: psn, T: 10}"]
    with pytest.raises(UserError, match=r"psn cannot be used here: it does not accept a mask"):
        run.execute(load("five/events", changes), dry_run=True)
