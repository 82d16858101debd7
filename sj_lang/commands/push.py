"""`sj-lang push RUN OWNER/NAME`: put a model on the Hugging Face hub, or show what would go."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sj_lang import hf, plugins
from sj_lang.errors import UserError, describe
from sj_lang.folder import RunFolder
from sj_lang.recipe.loading import Recipe, load
from sj_lang.run import card
from sj_lang.run.assembly import make_task

MODULE = "modeling_sj_lang"
#: The code on the hub: it only imports what is installed.
CODE = '''\
"""Lets transformers find the classes of this model, which are those of an installed package."""

try:
    from {package} import {names}
except ImportError as error:
    raise ImportError("this model needs sj_lang; install it with: pip install {distributions}") from error

__all__ = [{quoted}]
'''


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
    """Copy a stored model to the folder `files`, and add the module that imports its classes, which
    its config.json names."""
    for path in model.iterdir():
        if path.is_file():
            shutil.copyfile(path, files / path.name)
    if not (files / card.FILE).is_file():  # a run of an earlier version
        (files / card.FILE).write_text(card.write(recipe, make_task(recipe).auto_class, {}), encoding="utf-8")
    classes = _auto_classes(plugins.get("model", recipe.model["type"]).load())
    config = json.loads((files / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {auto: f"{MODULE}.{name}" for auto, name in classes.items()}
    (files / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    names = sorted(set(classes.values()))
    code = CODE.format(
        package=card.package(recipe),
        names=", ".join(names),
        quoted=", ".join(f'"{name}"' for name in names),
        distributions=" ".join(card.distributions(recipe.model)),
    )
    (files / f"{MODULE}.py").write_text(code, encoding="utf-8")


def _refuse_unless_named(repository: str) -> None:
    if "/" not in repository or hf.wrong_place(repository):
        raise UserError("push: give the name on the hub, OWNER/NAME; --dry-run shows what would go without one")


def _refuse_unless_online() -> None:
    with hf.reached() as online:
        if not online:
            raise UserError("push: the Hugging Face hub cannot be reached from here; try again with a network")


def _auto_classes(config: Any) -> dict[str, str]:
    """Auto class -> the class that it builds from a config class, of all that know it."""
    from transformers.models.auto import modeling_auto

    classes = {"AutoConfig": config.__name__}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and config in mapping:
            classes[name] = mapping[config].__name__
    return classes


def _send(files: Path, repository: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=files, commit_message="Model of a run of sj_lang")
    except Exception as error:  # the HTTP library differs between releases
        raise UserError(f"push: the hub refuses {repository}: {describe(error)}") from error
