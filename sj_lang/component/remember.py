"""Keeps what checks of recipes found out between processes, so that a check imports no torch.

It does so inside `between_processes()` only, in which the commands run that train nothing:
`sj-lang run` always checks anew. What is kept is void as soon as one of the files that were
imported for it, an installed package or a plugin is another one, by size and time as Python does it
for its bytecode.
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
#: The only things that a file may name, module -> names: what annotations and defaults are made of.
#: Whole modules would not do: `inspect` leads to `os.system`, `types` to functions of any code.
_PLAIN = {
    "_functools": {"reduce"},
    "_operator": {"getitem", "or_"},
    "annotated_types": {"Ge", "Gt", "Interval", "Le", "Len", "Lt", "MaxLen", "MinLen", "MultipleOf"},
    "builtins": {"Ellipsis", "bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "set", "str"}
    | {"tuple", "type"},
    "collections.abc": {"Callable", "Iterable", "Mapping", "MutableMapping", "Sequence"},
    "inspect": {"_empty"},
    "pydantic.fields": {"FieldInfo"},
    "pydantic.types": {"AllowInfNan", "Strict"},
    "pydantic_core._pydantic_core": {"PydanticUndefined"},
    "sj_lang.component.schema": {"Argument", "Data", "Part"},
    "sj_lang.component.spec": {"Spec"},
    "types": {"GenericAlias", "NoneType", "UnionType"},
    "typing": {"Annotated", "Any", "Literal", "Optional", "Union"},
}

_store: _Store | None = None


def remembered(key: tuple[Any, ...], compute: Callable[[], T]) -> T:
    """What `compute` returned for this key, which must say all that it depends on but code.

    A value that is made of more than `_PLAIN` is computed each time, and so is an error.
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
    """Let `remembered` use what earlier processes kept, and add to it, unless `SWITCH` is empty."""
    global _store
    folder = os.environ.get(SWITCH)
    if folder == "" or _store is not None:
        yield
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sj_lang"
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
        # if the folder cannot be written to, the next check is slow too
        with contextlib.suppress(OSError):
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
        if name not in _PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is not plain")
        return super().find_class(module, name)


def _read(written: bytes) -> Any:
    return _Reader(io.BytesIO(written)).load()
