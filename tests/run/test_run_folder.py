"""Who may write into a folder, and which of its checkpoints can be loaded. No training here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sj_lang.errors import UserError
from sj_lang.folder import RunFolder, differences
from sj_lang.manifest import Manifest, editable, read_json, write_json
from sj_lang.run import checkpoints

RECIPE = {"recipe": 1, "name": "a", "output": "x", "model": {"type": "tiny", "dim": 16}, "train": {"max_steps": 3}}


def a_run(root: Path, status: str = "running") -> RunFolder:
    folder = RunFolder(root)
    folder.create()
    folder.unlock()
    manifest = Manifest.start(folder.manifest, recipe=RECIPE, name="a")
    manifest.content["status"] = status
    manifest.write()
    return folder


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new" / "deep").refuse_unless_free(RECIPE)
    RunFolder(tmp_path).refuse_unless_free(RECIPE)
    assert not (tmp_path / "new").exists()


def test_files_that_are_no_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="holds files, but no run"):
        RunFolder(tmp_path).refuse_unless_free(RECIPE)


def test_what_a_run_that_was_killed_at_once_leaves_is_free(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a recipe of the user's")
    with pytest.raises(UserError, match="holds files, but no run"):
        RunFolder(tmp_path).refuse_unless_free(RECIPE)
    (tmp_path / ".lock").touch()
    RunFolder(tmp_path).refuse_unless_free(RECIPE)


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be locked"):
        RunFolder(tmp_path).lock()
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_file_system_without_locks_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert "make sure that no other process trains there" in RunFolder(tmp_path).lock()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "x").refuse_unless_free(RECIPE)
    with pytest.raises(UserError, match=r"cannot be created: .* is a file"):
        RunFolder(tmp_path / "x" / "y").refuse_unless_free(RECIPE)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission"):
        RunFolder(tmp_path / "x").refuse_unless_free(RECIPE)


def test_creating_says_why_it_cannot() -> None:
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(Path("/proc/nowhere")).create()


def test_of_two_that_begin_at_once_one_is_refused(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "r"), RunFolder(tmp_path / "r")
    first.refuse_unless_free(RECIPE)
    second.refuse_unless_free(RECIPE)
    first.create()
    with pytest.raises(UserError, match="another process has begun"):
        second.create()


@pytest.mark.parametrize(("status", "advice"), [("done", "output="), ("running", "--resume"), ("failed", "--resume")])
def test_the_same_recipe_again(tmp_path: Path, status: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        a_run(tmp_path, status).refuse_unless_free(RECIPE)


def test_another_recipe_is_told_by_its_keys(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    other = {**RECIPE, "model": {"type": "tiny", "dim": 32}}
    for check in (folder.refuse_unless_free, folder.refuse_unless_own):
        with pytest.raises(UserError, match=r"another recipe(.|\n)*model\.dim: 16 there, 32 now"):
            check(other)


def test_output_and_names_do_not_make_another_recipe() -> None:
    assert differences(RECIPE, {**RECIPE, "output": "y", "name": "b", "summary": "c"}) == []
    assert differences({"a": {"b": 1}}, {"a": {}}) == [("a", "(not set)", {}), ("a.b", 1, "(not set)")]


@pytest.mark.parametrize("made", [False, True])
def test_only_a_run_can_be_resumed(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="is not a run folder" if made else "does not exist"):
        RunFolder(tmp_path / "x").refuse_unless_own(RECIPE)


def test_a_damaged_manifest_is_a_clear_error(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    folder.manifest.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        folder.refuse_unless_free(RECIPE)


def test_history_loses_what_is_trained_again(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    for step in (1, 2, 3):
        folder.append({"step": step, "train.loss": float("nan") if step == 1 else 0.5})
    with folder.history.open("a") as file:
        file.write('{"step": 4, "tr')
    folder.rewind(2)
    assert [entry["step"] for entry in folder.read_history()] == [1, 2]
    assert folder.read_history()[0]["train.loss"] is None


def test_history_holds_histograms_of_decays_and_no_other_lists(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    folder.append({"step": 1, "decays.a v": [0, 4]})
    assert folder.read_history() == [{"step": 1, "decays.a v": [0, 4]}]
    for wrong in ({"step": 2, "train.loss": [0, 4]}, {"step": 2, "decays.a v": ["x"]}):
        folder.append(wrong)
        with pytest.raises(UserError, match=r"metrics.jsonl, line 2: expected a step and figures"):
            folder.rewind(2)
        folder.history.write_text('{"step": 1}\n')


def test_history_goes_forward(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    for step in (1, 2, 2, 1):
        folder.append({"step": step, "train.loss": 0.5})
    with pytest.raises(UserError, match=r"metrics.jsonl, line 4: step 1 comes after step 2"):
        folder.rewind(2)


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"a": float("nan")})
    assert read_json(tmp_path / "m.json") == {"a": 1}


def checkpoint(root: Path, step: int, run: str = "me") -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir()
    save_file({"w": torch.arange(6.0)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"x": torch.arange(6.0)}, folder / name)
    mark = {"args": {"run": run}, "attributes": {"tokens": 5}}
    state = {"global_step": step, "stateful_callbacks": {"RunMark": mark}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    checkpoints.seal(folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    """One bit of the tensor in the file."""
    data = bytearray(path.read_bytes())
    data[bytes(data).index(torch.arange(6.0).numpy().tobytes()) + 4] ^= 1
    path.write_bytes(data)


def test_the_newest_checkpoint_is_taken(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step) for step in (9, 10, 100)]
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.newest(tmp_path, "me") == (folders[-1], [])
    assert checkpoints.mark(folders[0]) == {"best": "", "tokens": 5}


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "checksums.json"],
)
def test_a_checkpoint_cut_off_is_skipped_with_a_note(tmp_path: Path, name: str) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    cut(newest / name)
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen == older
    assert notes == [f"checkpoint-10 is skipped: {name} is cut off" + notes[0].partition("is cut off")[2]]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_with_a_file_missing_is_skipped(tmp_path: Path, name: str, sealed: bool) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (newest / name).unlink()
    if not sealed:
        (newest / "checksums.json").unlink()
    assert checkpoints.newest(tmp_path, "me")[0] == older


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_flipped_bit_is_seen(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path, 9)
    flip(folder / name)
    assert checkpoints.why_not(folder, "me") == f"{name} is cut off or damaged"


def test_damage_to_the_best_checkpoint_is_seen(tmp_path: Path) -> None:
    best, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    state = read_json(newest / "trainer_state.json")
    write_json(newest / "trainer_state.json", {**state, "best_model_checkpoint": "/old/place/checkpoint-9"})
    checkpoints.seal(newest)
    assert checkpoints.newest(tmp_path, "me") == (newest, [])
    flip(best / "model.safetensors")
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen is None
    assert "checkpoint-9, the best so far, is lost: model.safetensors is cut off or damaged" in notes[0]
    assert notes[-1] == "none of its checkpoints can be loaded: it starts from the beginning"


def test_counts_that_are_no_numbers_are_damage(tmp_path: Path) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    path = newest / "trainer_state.json"
    path.write_text(path.read_text().replace('"tokens": 5', '"tokens": "many"'))
    checkpoints.seal(newest)
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen == older
    assert "trainer_state.json holds counts that are not numbers" in notes[0]


def test_a_checkpoint_under_the_name_of_another_is_skipped(tmp_path: Path) -> None:
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    newer.rename(tmp_path / "checkpoint-11")
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen == older
    assert notes == ["checkpoint-11 is skipped: its trainer_state.json is of step 10. It is kept as damaged-11"]


@pytest.mark.parametrize("added", ["pytorch_model.bin", "model.safetensors.index.json", "pytorch_model_fsdp_0/"])
def test_a_checkpoint_to_which_something_was_added_is_skipped(tmp_path: Path, added: str) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (newest / ".hidden").touch()
    assert checkpoints.newest(tmp_path, "me")[0] == newest
    (newest / added).mkdir() if added.endswith("/") else (newest / added).write_text("{}")
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen == older
    assert f"'{added.rstrip('/')}' was added to it" in notes[0]


@pytest.mark.parametrize("file", ["../../secret", "/etc/passwd", "a\0b", "a" * 5000])
def test_sums_of_strange_files_are_damage(tmp_path: Path, file: str) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    write_json(newest / "checksums.json", {**read_json(newest / "checksums.json"), file: "0"})
    assert checkpoints.newest(tmp_path, "me")[0] == older


def test_sums_that_only_others_have_are_missing(tmp_path: Path) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (newest / "checksums.json").unlink()
    chosen, notes = checkpoints.newest(tmp_path, "me")
    assert chosen == older
    assert "checkpoint-10 is skipped: checksums.json is missing" in notes[0]


def test_a_checkpoint_without_sums_is_taken_with_a_note(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 9)
    (folder / "checksums.json").unlink()
    assert checkpoints.newest(tmp_path, "me") == (
        folder,
        ["checkpoint-9 has no checksums.json, so its files cannot be verified"],
    )


def test_a_checkpoint_appears_whole_and_later_ones_are_set_aside(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    (tmp_path / "unfinished").mkdir()
    checkpoint(tmp_path / "unfinished", 9).joinpath("new").touch()
    checkpoints.publish(tmp_path, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]
    assert (tmp_path / "checkpoint-9/new").exists()
    assert checkpoints.newest(tmp_path, "me") == (tmp_path / "checkpoint-9", [])
    (tmp_path / "unfinished").mkdir()
    checkpoint(tmp_path, 12)
    checkpoints.clear(tmp_path, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-9", "damaged-12"]


def test_pickles_of_others_are_never_loaded(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9, run="somebody")
    with pytest.raises(UserError, match=r"none of its checkpoints can be loaded(.|\n)*belongs to another run"):
        checkpoints.newest(tmp_path, "me")


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path, "me") == (None, ["no checkpoint yet: it starts from the beginning"])


def test_the_commit_is_that_of_the_distribution_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind an *.egg-info, which knows no folder,
    stand the active installation and one that it hides.
    """
    for name, hidden in (("active", False), ("hidden", True)):
        source, site = tmp_path / name, tmp_path / f"site-{name}"
        source.mkdir()
        author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        for words in (("init",), (*author, "commit", "--quiet", "--allow-empty", "--message", name)):
            subprocess.run(["git", "-C", str(source), *words], check=True, capture_output=True)
        for info in ("egg-info", "dist-info") if not hidden else ("dist-info",):
            folder = site / f"ember-1.0.{info}"
            folder.mkdir(parents=True)
            about = "PKG-INFO" if info == "egg-info" else "METADATA"
            (folder / about).write_text("Metadata-Version: 2.1\nName: ember\nVersion: 1.0\n")
            (folder / "entry_points.txt").write_text("[sj_lang]\nember = ember\n")
        (site / "ember-1.0.dist-info/direct_url.json").write_text(json.dumps({"url": source.as_uri()}))
    monkeypatch.setattr("sys.path", [str(tmp_path / "site-active"), str(tmp_path / "site-hidden")])
    show = ["git", "-C", str(tmp_path / "active"), "rev-parse", "HEAD"]
    head = subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()
    assert editable() == {"ember": head}
