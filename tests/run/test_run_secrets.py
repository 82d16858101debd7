"""Tokens and passwords: no command shows one, and no run stores one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_recipe

from sj_lang import cli, run
from sj_lang.errors import RunFailed, UserError, redacted
from sj_lang.folder import RunFolder
from sj_lang.hf.checkpoint import find
from sj_lang.recipe import load

TOKEN = "hf_" + "aBcDeF1234" * 3
SECRETS = (TOKEN, "hf_abc", "s3cret", "pa55")
ADDRESS = "https://joe:s3cret@example.org/a"
CHANGES = [
    f"task.words={TOKEN}",
    f"model.init_from=hub:joe:{TOKEN}@owner/name",
    "model.init_from=hub:joe:hf_abc@owner/name",
    "model.init_from=hub:owner/name:hf_abc",
    "model.init_from=hub:https://joe:s3cret@huggingface.co/owner/name",
    "model.init_from=hub:owner/name?token=s3cret",
    f"model.init_from={ADDRESS}",
    "model.init_from=https://example.org/a?X-Amz-Signature=s3cret&b=1",
    f"name={ADDRESS}",
    f"summary=it is at {ADDRESS}",
    f"output=r/{TOKEN}",
    f"generate.prompt={TOKEN}",
    f"generate.stop_strings=[a, {TOKEN}]",
    f'train.lr_scheduler_kwargs={{a: {{b: "{ADDRESS}"}}}}',
    f"train.lr_scheduler_kwargs={{{TOKEN}: 1}}",
    f"train.{TOKEN}=1",
    "train.hub_model_id=hf_abc@owner/name",
]


def _shown(capfd: pytest.CaptureFixture[str]) -> list[str]:
    texts = "".join(capfd.readouterr())
    return [secret for secret in SECRETS if secret in texts]


def _stored(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "tiny.yaml"]
    return [f"{path}: {secret}" for path in files for secret in SECRETS if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_recipe_cannot_hold_one(change: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    for command in (["run", "--debug"], ["run"], ["validate"], ["show"]):
        assert cli.main([*command, path, "output=r", change]) == 2
        assert not _shown(capfd), command
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml"}


def test_in_a_file_its_place_is_told(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, f"runs: {{a: {{summary: '{ADDRESS}'}}}}\n")
    with pytest.raises(
        UserError, match=r"tiny\.yaml:\d+:\d+  runs\.a\.summary: holds a token or a pass.*HF_TOKEN"
    ) as error:
        load(path)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("place", ["hub:joe:pa55@owner/name", "hub:owner/name#pa55", "hub:pa55:owner/name"])
def test_places_in_python(place: str) -> None:
    with pytest.raises(UserError, match="expected hub:OWNER/NAME, found something else, not shown") as error:
        find(place, "model.init_from")
    assert "pa55" not in str(error.value)


def test_what_a_library_tells_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A failing run: its message, its manifest, and the traceback in its log."""
    monkeypatch.setenv("HF_TOKEN", "pa55-of-the-environment")

    def fail(folder: RunFolder, entry: object) -> None:
        raise RuntimeError(f"no access to {ADDRESS} with {TOKEN} and pa55-of-the-environment")

    monkeypatch.setattr(RunFolder, "append", fail)
    monkeypatch.setattr("sys.argv", ["sj-lang", f"--prompt={TOKEN}"])
    with pytest.raises(RunFailed, match=r"no access to https://\*\*\*@example\.org/a with \*\*\* and \*\*\*"):
        run.execute(load(write_recipe(tmp_path), ["output=r"]))
    assert "Traceback" in (tmp_path / "r/log.txt").read_text()
    assert not _shown(capfd)
    assert not _stored(tmp_path)


def test_what_is_no_secret_stays() -> None:
    for text in (
        "hub:owner/name/config",
        "/data/hf_cache/hf_transfer.txt",
        "joe@example.org",
        "https://a.b/c@1?key=",
        "a:b",
    ):
        assert redacted(text) == text


def test_a_token_is_neither_stored_nor_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    for change in ("train.hub_token=hf_abc", "train.hub_tokn=hf_abc", "train.hub_token=[hf_abc]"):
        assert cli.main(["run", path, "output=r", change]) == 2
        assert "hf_abc" not in "".join(capfd.readouterr())
    Path(path).write_text(Path(path).read_text().replace("max_steps: 12", "max_steps: 12\n  hub_token: hf_abc"))
    assert cli.main(["run", path, "output=r"]) == 2
    errors = capfd.readouterr().err
    assert "train.hub_token: must be null here" in errors
    assert "hf_abc" not in errors
    assert not (tmp_path / "r").exists()
