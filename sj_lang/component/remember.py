"""What checks of recipes found out, kept between processes, so that a check imports no torch.

Only inside `between_processes()`, in which the commands run that train nothing: `sj-lang run`
always checks anew. What is kept is void as soon as one of the files that were imported for it, an
installed package or a plugin is another one, by size and time as Python does it for its bytecode.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sj_lang import __version__, plugins

T = TypeVar("T")

#: the folder to keep it in; "": keep nothing. By default sj_lang in the user's cache folder.
SWITCH = "SJ_LANG_CACHE"
#: What is read may be made of these modules' classes and functions only.
_PLAIN = ("_functools", "_operator", "annotated_types", "collections", "copyreg", "functools", "inspect", "operator")
_PLAIN += ("pydantic.", "pydantic_core.", "types", "typing", "sj_lang.component")

_store: _Store | None = None


def remembered(key: tuple[Any, ...], compute: Callable[[], T]) -> T:
    """What `compute` returned for this key, which must say all that it depends on but code.

    What cannot be read back without other modules is computed each time, as are errors.
    """
    if _store is None:
        return compute()
    text = repr(key)
    if text in _store.values:
        value: T = _read(_store.values[text])
        return value
    value = compute()
    with contextlib.suppress(pickle.PickleError, AttributeError, TypeError):
        written = pickle.dumps(value)
        _read(written)
        _store.values[text] = written
        _store.is_new = True
    return value


@contextlib.contextmanager
def between_processes() -> Iterator[None]:
    """Let `remembered` use, and add to, what earlier processes kept. Nothing, if that is off."""
    global _store
    folder = os.environ.get(SWITCH)
    if folder == "" or _store is not None:
        yield
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sj_lang"
    _store = _Store(Path(folder) if folder else cache)
    try:
        yield
        _store.write()
    finally:
        _store = None


class _Store:
    """One file per Python, search path and set of plugins: values, and the files they rest on."""

    def __init__(self, folder: Path) -> None:
        self.started, self.is_new = time.time_ns(), False
        packages = [place for place in sys.path if place.endswith("-packages") and os.path.isdir(place)]
        installed = [(place, os.stat(place).st_mtime_ns) for place in packages]
        place = (sys.version, sys.prefix, sys.path)
        name = hashlib.sha256(repr(place).encode()).hexdigest()[:16]
        self.path = folder / f"checks-{name}.pickle"
        self.identity = repr((__version__, installed, plugins.table()))
        self.files: dict[str, tuple[int, int]] = {}
        self.values: dict[str, bytes] = {}
        try:
            identity, files, values = _read(self.path.read_bytes())
        except Exception:  # there is none, or it is damaged: pickle may raise anything
            return
        if identity == self.identity and all(_stamp(file) == stamp for file, stamp in files.items()):
            self.files, self.values = files, values

    def write(self) -> None:
        """Keep what is new, unless a file may have changed after it was imported."""
        if not self.is_new:
            return
        names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        stamps = {name: stamp for name in names if isinstance(name, str) and (stamp := _stamp(name))}
        if any(changed >= self.started for changed, _ in stamps.values()):
            return
        content = pickle.dumps((self.identity, self.files | stamps, self.values))
        with contextlib.suppress(OSError):  # a home that cannot be written to: the next check is slow too
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as draft:
                draft.write(content)
            os.replace(draft.name, self.path)


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" or module.startswith(_PLAIN):
            value = super().find_class(module, name)
            if module != "builtins" or value is Ellipsis or isinstance(value, type):
                return value
        raise pickle.UnpicklingError(f"{module}.{name} is not plain")


def _read(written: bytes) -> Any:
    return _Reader(io.BytesIO(written)).load()
