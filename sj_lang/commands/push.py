"""`sj-lang push RUN OWNER/NAME`: put a model on the Hugging Face hub, or show what would go."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sj_lang import hf
from sj_lang.errors import UserError, describe
from sj_lang.folder import RunFolder
from sj_lang.recipe.loading import Recipe, load
from sj_lang.run import auto_map, card
from sj_lang.run.assembly import make_task


def main(run: str, repository: str | None, *, dry_run: bool, private: bool) -> None:
    """Stage the files of a run's model; show or send them."""
    folder = RunFolder(Path(run))
    model = folder.trained_model()
    if repository is not None or not dry_run:
        _refuse_unless_named(repository or "")
    if not dry_run:
        _refuse_unless_online()
    recipe = load(str(folder.recipe), ["model.init_from=null"])
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        stage(model, recipe, files)
        if dry_run:
            print((files / card.FILE).read_text(encoding="utf-8"))
            print(f"these files would go to {repository or 'OWNER/NAME'}:")
            for path in sorted(files.iterdir()):
                print(f"  {path.name:<28} {path.stat().st_size:>12,} bytes")
            return
        _send(files, str(repository), private=private)
    print(f"pushed {folder.shown} to {repository}")


def stage(model: Path, recipe: Recipe, files: Path) -> None:
    """Copy a stored model to the folder `files`, with a card and the module that imports its
    classes, which runs of earlier versions did not write."""
    for path in model.iterdir():
        if path.is_file():
            shutil.copyfile(path, files / path.name)
    if not (files / card.FILE).is_file():
        (files / card.FILE).write_text(card.write(recipe, make_task(recipe).auto_class, {}), encoding="utf-8")
    auto_map.write(recipe, files)


def _refuse_unless_named(repository: str) -> None:
    if "/" not in repository or hf.wrong_place(repository):
        raise UserError("push: give the name on the hub, OWNER/NAME; --dry-run shows what would go without one")


def _refuse_unless_online() -> None:
    with hf.reached() as online:
        if not online:
            raise UserError("push: the Hugging Face hub cannot be reached from here; try again with a network")


def _send(files: Path, repository: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=files, commit_message="Model of a run of sj_lang")
    except Exception as error:  # the HTTP library differs between releases
        raise UserError(f"push: the hub refuses {repository}: {describe(error)}") from error
