"""Finds checkpoints, and reads what their folders say without loading any weights.

`model.init_from`, `tokenizer.name` and `task.teacher` name a checkpoint in the same three forms: a
folder (also of a run), `package:NAME` (inside an installed distribution) and `hub:NAME` (on the
Hugging Face hub).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from sj_lang.errors import SjLangError, Unreachable, UserError, choices, describe
from sj_lang.folder import model_folder
from sj_lang.hf import HUB, wrong_place

PACKAGE = "package:"
#: Files that hold weights as pickles, which can run code when they are opened; none ever is.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FORMS = "a folder, package:NAME or hub:OWNER/NAME"
OFFLINE = "the Hugging Face hub cannot be reached and the local cache has no copy"

_NOTED: ContextVar[dict[str, Path | str] | None] = ContextVar("noted", default=None)


def find(place: str, key: str) -> Path | str:
    """The folder of a checkpoint, or its name on the hub.

    UserError that begins with `key` if there is no such checkpoint.
    """
    source = _find(place, key)
    if (noted := _NOTED.get()) is not None:
        noted[key] = source
    return source


@contextmanager
def noting() -> Iterator[dict[str, Path | str]]:
    """Collects what `find` returns inside, by its key."""
    noted: dict[str, Path | str] = {}
    before = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(before)


def digest(source: Path | str) -> str:
    """SHA-256 of the config and the weights of what `find` returned; of a checkpoint on the hub,
    the commit that the local cache has, or "".
    """
    if isinstance(source, str):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json")
        return Path(cached).parent.name if isinstance(cached, str) else ""
    total = hashlib.sha256()
    for path in (source / "config.json", *sorted(source.glob("*.safetensors"))):
        if path.is_file():
            with path.open("rb") as file:
                total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _find(place: str, key: str) -> Path | str:
    if place.startswith(HUB):
        if wrong := wrong_place(place):
            raise UserError(f"{key}: {wrong}")
        return place.removeprefix(HUB)
    if place.startswith(PACKAGE):
        return _in_package(place, key)
    folder = Path(place).expanduser()
    if folder.is_dir():
        return model_folder(place, key)
    hint = f"expected {FORMS}"
    if not folder.exists() and not place.startswith((".", "/", "~")):
        if place.startswith("run:"):
            hint = "it means another run of the same series, and this is a single run"
        elif place.count("/") == 1:
            hint = f"for that name on the Hugging Face hub, write {HUB}{place}"
        elif _folders_of_package(place) is not None:
            hint = f"for the installed package of that name, write {PACKAGE}{place}"
    raise UserError(f"{key}: {place or repr(place)} is not a folder; {hint}")


def _in_package(place: str, key: str) -> Path:
    """The folder of weights in an installed package. Nothing of the package is imported or
    executed."""
    name, _, inside = place.removeprefix(PACKAGE).partition("/")
    if not name:
        raise UserError(f"{key}: {place} names no package; expected {FORMS}")
    roots = _folders_of_package(name)
    if roots is None:
        installed = {one.metadata["Name"] for one in metadata.distributions()}
        hint = choices(name, sorted(installed), limit=0)
        raise UserError(
            f"{key}: no package '{name}' is installed here{'; ' + hint if hint else ''}; install it with "
            f"`pip install {name}`, or name another: {PACKAGE}NAME"
        )
    folders = {path.relative_to(root).as_posix(): path for root in roots for path in _weight_folders(root)}
    if inside in folders:
        return folders[inside]
    if len(folders) == 1 and not inside:
        return next(iter(folders.values()))
    names = ", ".join(f"{PACKAGE}{name}/{path}" for path in sorted(folders))
    if names and inside:
        raise UserError(f"{key}: package '{name}' has no checkpoint in {inside}; it has {names}")
    if names:
        raise UserError(f"{key}: package '{name}' holds several checkpoints; name one: {names}")
    pickles = [path.name for root in roots for path in _files(root, PICKLES)]
    reason = f"it holds {pickles[0]}, a pickle, which is never opened" if pickles else "it holds no weights"
    raise UserError(f"{key}: no checkpoint with safetensors in package '{name}': {reason}")


def _folders_of_package(name: str) -> list[Path] | None:
    """The folders of a distribution's import packages, or of the import package of that name; None:
    not installed.

    `importlib.resources.files` would import the package, so the metadata say what its folders are
    called, and the spec of a top-level package says where an editable one lies.
    """
    packages, folders, specs = [name], [], []
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        distribution = None
    if distribution is not None:
        listed = (distribution.read_text("top_level.txt") or "").split()
        inside = {file.parts[0] for file in distribution.files or [] if len(file.parts) > 1}
        packages = listed or sorted(one for one in inside if not one.endswith((".dist-info", "..")))
        folders = [Path(str(distribution.locate_file(package))) for package in packages]
    if not any(folder.is_dir() for folder in folders):
        names = [package for package in packages if package.isidentifier()]
        specs = [spec for spec in map(importlib.util.find_spec, names) if spec is not None]
        folders = [Path(path) for spec in specs for path in spec.submodule_search_locations or []]
    if distribution is None and not specs:
        return None
    return [folder for folder in folders if folder.is_dir()]


def _weight_folders(root: Path) -> list[Path]:
    """The folders below `root` with safetensors and a config.json that names a model."""
    folders = sorted({path.parent for path in root.rglob("*.safetensors")})
    return [folder for folder in folders if "model_type" in _json(folder / "config.json")]


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    return (path for pattern in patterns for path in sorted(folder.rglob(pattern)))


def _json(path: Path) -> Any:
    """The content of a JSON file; an empty mapping if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


@contextmanager
def reading(source: Path | str, problem: str) -> Iterator[None]:
    """Inside, whatever a library raises about a checkpoint becomes a UserError, or Unreachable.

    Files that are damaged or made to harm make transformers, tokenizers and safetensors raise
    errors of any class. `source` is what `find` returns; `problem` is how the error begins.
    """
    from sj_lang import hf

    with hf.reached() if isinstance(source, str) else nullcontext(True) as online:
        try:
            yield
        except SjLangError:
            raise
        except Exception as error:
            if not online and isinstance(error, OSError):
                raise Unreachable(f"{problem}: {OFFLINE}") from error
            plain = isinstance(error, OSError | ValueError) and not isinstance(error, json.JSONDecodeError)
            raise UserError(f"{problem}: {' '.join(str(error).split()) if plain else describe(error)}") from error


def read_config(place: str, key: str) -> dict[str, Any]:
    """The config of a checkpoint with safetensors, and as `pooling` what sentence-transformers keep
    beside it.

    UserError if there is none, Unreachable if it is on the hub and the hub does not answer.
    """
    from sj_lang import hf

    hf.shield()
    from transformers import PreTrainedConfig
    from transformers.utils import cached_file

    source = find(place, key)

    def file(name: str) -> Path:
        if isinstance(source, Path):
            return source / name
        return Path(cached_file(source, name, _raise_exceptions_for_missing_entries=False) or name)

    with reading(source, f"{key}: no checkpoint with safetensors in {place}"):
        if isinstance(source, Path):
            refuse_without_weights(source, place, key)
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(source)[0]
        if not isinstance(config.get("model_type", ""), str):
            raise ValueError(f"config.json: model_type is {config['model_type']!r:.60}, which names no model")
        return config | _pooling(file)


def refuse_without_weights(folder: Path, place: str, key: str) -> None:
    """UserError unless a folder has a config and weights that are safetensors, by their name and
    their first bytes."""
    start = f"{key}: no checkpoint with safetensors in {place}"
    if not (folder / "config.json").is_file():
        raise UserError(f"{start}: it has no config.json")
    weights = sorted(folder.glob("*.safetensors"))
    pickles = [path.name for path in _files(folder, PICKLES)]
    for path in weights:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:9] != b"{":
            pickles, weights = [path.name] if head.startswith((b"PK", b"\x80")) else [], []
    if not weights:
        reason = f"{pickles[0]} is a pickle, which can run code and is never opened" if pickles else "no such file"
        raise UserError(f"{start}: {reason}; store it with save_pretrained(), which writes model.safetensors")


def has_tokenizer(source: Path | str) -> bool:
    """Whether a checkpoint brings a tokenizer. One on the hub is taken to do so."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    return isinstance(source, str) or any((source / name).is_file() for name in names)


def _pooling(file: Callable[[str], Path]) -> dict[str, str]:
    """`{"pooling": "mean"}` from the files of sentence-transformers; empty without them or for
    others."""
    modules = _json(file("modules.json"))
    paths = [module["path"] for module in modules if str(module["type"]).endswith(".Pooling")]
    config = _json(file(f"{paths[0]}/config.json")) if paths else {}
    flags = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    modes = [mode for mode, flag in flags.items() if config.get(flag)]  # sentence-transformers < 6
    mode = config.get("pooling_mode", modes[0] if len(modes) == 1 else None)
    return {"pooling": mode} if mode in tuple(flags) else {}
