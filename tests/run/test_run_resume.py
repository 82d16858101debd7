"""A run that was stopped goes on as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import write_recipe
from tiny_task import Windows, letters
from tokenizers import decoders, normalizers
from transformers import PreTrainedTokenizerFast

from sj_lang import run
from sj_lang.errors import Interrupted, UserError
from sj_lang.folder import RunFolder
from sj_lang.manifest import read_json, write_json
from sj_lang.recipe import load
from sj_lang.report.page import page
from sj_lang.run.callbacks import RunMark

TIMED = {"train.seconds", "train.seconds_per_step", "train.tokens_per_second"}


def figures(root: Path) -> dict[str, float]:
    return {name: value for name, value in read_json(root / "metrics.json").items() if name not in TIMED}


def lines(root: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in TIMED} for entry in RunFolder(root).read_history()]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(root / "model/model.safetensors") for root in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def stop_in(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    """SIGTERM while training item number `items` is read."""
    original = Windows.__getitem__
    monkeypatch.setattr(Windows, "__getitem__", original)
    tiny.StopAt(items)


@pytest.fixture
def straight(finished: Path) -> Path:
    """A run that was not stopped."""
    return finished


def test_sigterm_saves_and_the_run_goes_on_bit_by_bit(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(write_recipe(tmp_path), ["output=r"])
    with monkeypatch.context() as patch:
        stop_in(patch, 27)  # in the middle of a step and of a line of the log
        with pytest.raises(
            Interrupted, match=r"SIGTERM at step \d+, checkpoint-\d+ is saved\. To continue: .*--resume r"
        ) as caught:
            run.execute(recipe)
    assert caught.value.exit_code == 143
    manifest = read_json(tmp_path / "r/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 143)
    step = int(str(caught.value).partition("checkpoint-")[2].split()[0])
    assert 1 < step < 12
    assert (tmp_path / f"r/checkpoint-{step}").is_dir()

    with pytest.raises(UserError, match=r"unfinished \(interrupted\).*--resume r"):
        run.execute(recipe)
    assert run.execute(load(str(tmp_path / "r/recipe.yaml")), resume="r") == 0
    assert same_weights(tmp_path / "r", straight)
    assert figures(tmp_path / "r") == figures(straight)
    assert lines(tmp_path / "r") == lines(straight)
    manifest = read_json(tmp_path / "r/manifest.json")
    assert manifest["status"] == "done"
    assert [session["checkpoint"] for session in manifest["resumed"]] == [f"checkpoint-{step}"]
    assert page(tmp_path / "r").manifest["chosen_step"] == page(straight).manifest["chosen_step"]


def test_a_moved_folder_with_its_newest_checkpoint_cut_off(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, 40)
        with pytest.raises(Interrupted):
            run.execute(load(write_recipe(tmp_path), ["output=old/r"]))
    (tmp_path / "old/r").rename(tmp_path / "r")
    newest, older = sorted((tmp_path / "r").glob("checkpoint-*"), key=lambda p: -int(p.name.split("-")[1]))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    out = capsys.readouterr().out
    assert f"note: {newest.name} is skipped: model.safetensors is cut off" in out
    assert f"continues from {older.name}" in out
    assert same_weights(tmp_path / "r", straight)
    assert lines(tmp_path / "r") == lines(straight)


def test_without_a_checkpoint_that_loads_a_run_begins_again(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, 8)
        with pytest.raises(Interrupted):
            run.execute(load(write_recipe(tmp_path), ["output=r"]))
    (optimizer,) = (tmp_path / "r").glob("checkpoint-*/optimizer.pt")
    optimizer.write_bytes(optimizer.read_bytes()[:99])
    with pytest.raises(UserError, match=r"another recipe(.|\n)*train\.max_steps: 12 there, 13 now"):
        run.execute(load("r/recipe.yaml", ["train.max_steps=13"]), resume="r")
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    out = capsys.readouterr().out
    assert "optimizer.pt is cut off or damaged. It is kept as damaged-" in out
    assert "note: none of its checkpoints can be loaded: it starts from the beginning" in out
    assert (tmp_path / f"r/{optimizer.parent.name.replace('checkpoint', 'damaged')}/optimizer.pt").exists()
    assert same_weights(tmp_path / "r", straight)
    assert lines(tmp_path / "r") == lines(straight)


def test_a_run_that_was_stopped_after_its_last_step_trains_no_more(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 steps of 4 samples out of 40 end within an epoch."""
    recipe = load(write_recipe(tmp_path), ["output=r", "task.windows=40"])
    for resume in (None, "r", "r"):
        with monkeypatch.context() as patch:
            patch.setattr("sj_lang.run.single.final_figures", stop)
            with pytest.raises(KeyboardInterrupt):
                run.execute(recipe, resume=resume)
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    assert figures(tmp_path / "r")["train.steps"] == 12
    run.execute(load("r/recipe.yaml", ["output=s"]))
    assert same_weights(tmp_path / "r", tmp_path / "s")
    assert lines(tmp_path / "r") == lines(tmp_path / "s")


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_run_without_checkpoints_begins_again(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, 12)
        with pytest.raises(Interrupted):
            run.execute(load(write_recipe(tmp_path), ["output=r"]))
    for checkpoint in (tmp_path / "r").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert "no checkpoint yet" not in capsys.readouterr().out
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    assert "note: no checkpoint yet: it starts from the beginning" in capsys.readouterr().out
    assert same_weights(tmp_path / "r", straight)


def stopped_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, 12)
        with pytest.raises(Interrupted):
            run.execute(load(write_recipe(folder), ["output=r", *changes]))


def test_other_data_are_refused_unless_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_run(tmp_path, monkeypatch)
    manifest = read_json(tmp_path / "r/manifest.json")
    letters = manifest["data"]["letters"]
    write_json(tmp_path / "r/manifest.json", {**manifest, "data": {"letters": 9}})
    with pytest.raises(
        UserError, match=rf"data have changed(.|\n)*letters: 9 there, {letters} now(.|\n)*--changed-data"
    ):
        run.execute(load("r/recipe.yaml"), resume="r")
    assert run.execute(load("r/recipe.yaml"), resume="r", changed_data=True) == 0
    assert "note: the data have changed since the run was started: letters" in capsys.readouterr().out
    manifest = read_json(tmp_path / "r/manifest.json")
    assert manifest["data"] == {"letters": letters}
    assert any("the data have changed" in note for note in manifest["notes"])


def test_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same tokens, so that nothing else would tell."""
    stopped_run(tmp_path, monkeypatch)

    def lower(*, texts: list[str]) -> PreTrainedTokenizerFast:
        tokenizer = letters(texts=texts)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    monkeypatch.setattr("tiny_task.letters", lower)
    changed = r"something else that it reads has(.|\n)*tokenizer: '\w{64}' there, '\w{64}' now"
    with pytest.raises(UserError, match=changed):
        run.execute(load("r/recipe.yaml"), resume="r")


def test_a_run_of_an_earlier_version_has_no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_run(tmp_path, monkeypatch)
    manifest = read_json(tmp_path / "r/manifest.json")
    sources = manifest.pop("sources")
    write_json(tmp_path / "r/manifest.json", manifest)
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    assert read_json(tmp_path / "r/manifest.json")["sources"] == sources


def test_another_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_run(tmp_path, monkeypatch)
    manifest = read_json(tmp_path / "r/manifest.json")
    write_json(tmp_path / "r/manifest.json", {**manifest, "machine": {**manifest["machine"], "world_size": 2}})
    with pytest.raises(UserError, match=r"trained by 2 process\(es\); 1 would train on other batches"):
        run.execute(load("r/recipe.yaml"), resume="r")


def test_what_is_written_and_measured_may_change_at_a_resume(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_run(tmp_path, monkeypatch)
    changes = ["generate.max_new_tokens=2", "measure.energy=false"]
    assert run.execute(load("r/recipe.yaml", changes), resume="r") == 0
    assert same_weights(tmp_path / "r", straight)
    assert not any(name.startswith("energy") for name in figures(tmp_path / "r"))
    assert load("r/recipe.yaml").generate["max_new_tokens"] == 2
    assert read_json(tmp_path / "r/manifest.json")["recipe"]["generate"]["max_new_tokens"] == 2


def test_an_evaluation_at_the_start_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["train.eval_on_start=true", "train.max_steps=4"]
    stopped_run(tmp_path, monkeypatch, *changes)
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    run.execute(load(write_recipe(tmp_path), ["output=s", *changes]))
    assert lines(tmp_path / "r") == lines(tmp_path / "s")


def test_sigterm_in_the_last_step_of_an_epoch_leaves_its_evaluation_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["train.max_steps=-1", "train.num_train_epochs=2", "train.eval_strategy=epoch", "task.windows=12"]
    batches = []

    def count(mark: RunMark, batch: object) -> None:
        batches.append(batch)
        if len(batches) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunMark, "count", count)
        with pytest.raises(Interrupted):
            run.execute(load(write_recipe(tmp_path), ["output=r", *changes]))
    assert [path.name for path in (tmp_path / "r").glob("checkpoint-*")] == ["checkpoint-3"]
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    run.execute(load(write_recipe(tmp_path), ["output=s", *changes]))
    assert lines(tmp_path / "r") == lines(tmp_path / "s")
    assert figures(tmp_path / "r") == figures(tmp_path / "s")


def test_sigterm_where_exceptions_are_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As in a callback of the garbage collection."""

    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def drop(*arguments: object) -> list[str]:
        del dropped[:]
        return []

    dropped = [Dropped()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sj_lang.run.single.RunTrainer.release_model", drop)
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM after the training"):
            run.execute(load(write_recipe(tmp_path), ["output=r", "train.max_steps=2"]))
    assert "Exception ignored" not in capfd.readouterr().err


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_run(tmp_path, monkeypatch)
    holder = "from pathlib import Path; from sj_lang.folder import RunFolder; RunFolder(Path('r')).lock(); "
    command = [sys.executable, "-c", holder + "print('held', flush=True); import time; time.sleep(100)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = (tmp_path / "r/manifest.json").read_bytes()
        with pytest.raises(UserError, match=rf"another process has begun a run in r .* process {other.pid} on "):
            run.execute(load("r/recipe.yaml"), resume="r")
        assert (tmp_path / "r/manifest.json").read_bytes() == before
        other.kill()
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0


@pytest.mark.parametrize("options", [["penalty_alpha=0.6", "top_k=4"], ["num_beam_groups=2", "num_beams=4"]])
def test_options_that_cannot_work_are_found_before_the_training(tmp_path: Path, options: list[str]) -> None:
    recipe = load(write_recipe(tmp_path), ["output=r", *(f"generate.{option}" for option in options)])
    with pytest.raises(UserError, match=r"generate: the model cannot write with these options: ValueError"):
        run.execute(recipe)
    assert not (tmp_path / "r").exists()


def test_a_text_that_ends_at_certain_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(*, texts: list[str]) -> PreTrainedTokenizerFast:
        tokenizer = letters(texts=texts)
        tokenizer.backend_tokenizer.decoder = decoders.Fuse()
        return tokenizer

    monkeypatch.setattr("tiny_task.letters", fused)
    recipe = load(
        write_recipe(tmp_path), ["output=r", "train.max_steps=2", "generate.stop_strings=[a,b,c,d,e,f,g,h,i,j]"]
    )
    assert run.execute(recipe) == 0
    assert len((tmp_path / "r/sample.txt").read_text().strip()) == 4


# SIGTERM in this process: above; at each operation: test_run_kills.py
@pytest.mark.parametrize(("name", "code"), [pytest.param("SIGTERM", 143, marks=pytest.mark.slow), ("SIGHUP", 129)])
def test_exit_code_of_a_process_that_gets(name: str, code: int, tmp_path: Path, straight: Path) -> None:
    """SIGHUP: the terminal of the run is closed, which nothing can be written to from then on."""
    command = [sys.executable, str(Path(tiny.__file__)), write_recipe(tmp_path), "output=r"]
    environment = {**os.environ, "TINY_STOP_AT": "30", "TINY_SIGNAL": name, "OMP_NUM_THREADS": "1"}
    terminal, end = os.openpty()
    with subprocess.Popen(command, env=environment, stdout=end, stderr=subprocess.PIPE, text=True) as stopped:
        os.close(end)
        if name == "SIGHUP":
            shown = b""
            while b"step " not in shown:  # its log exists from before the first step on
                shown += os.read(terminal, 1024)
            os.close(terminal)
        errors = stopped.communicate(timeout=200)[1]
    assert stopped.returncode == code, errors
    assert re.search(rf"{name} at step \d+, .* is saved\. To continue: sj-lang run r/recipe.yaml --resume r", errors)
    assert "Traceback" not in errors
    manifest = read_json(tmp_path / "r/manifest.json")
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", code)
    lost = "standard output cannot be written from here on" in (tmp_path / "r/log.txt").read_text()
    assert lost == (name == "SIGHUP")
    assert run.execute(load("r/recipe.yaml"), resume="r") == 0
    assert same_weights(tmp_path / "r", straight)


def test_nohup_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Windows, "__getitem__", Windows.__getitem__)
            tiny.StopAt(12, signal.SIGHUP)
            run.execute(load(write_recipe(tmp_path), ["output=r", "train.max_steps=4"]))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
