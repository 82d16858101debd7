"""The one door to transformers and to the Hugging Face hub.

`shield` keeps broken audio and vision packages away from transformers; `reached` asks once whether
the hub is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sj_lang.errors import describe

#: how the place of something on the hub begins: `hub:owner/name`
HUB = "hub:"
_WORD = r"[\w.-]+"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}|{_WORD}")
_DATA_SET = re.compile(rf"{_WORD}/{_WORD}(/[^\s/@:?#=&]+)?")
PATIENCE = 5.0  # seconds; the libraries' own retries take 23

_hidden: dict[str, str] | None = None


def wrong_place(place: str, *, data: bool = False) -> str:
    """What is wrong with the form of a `hub:` place; "" if nothing is. data: a data set's.

    It is shown only if it holds nothing but a path: people write tokens and addresses there.
    """
    form, text = (_DATA_SET, "owner/name[/config]") if data else (_REPOSITORY, "OWNER/NAME")
    name = place.removeprefix(HUB)
    if form.fullmatch(name):
        return ""
    shown = repr(place) if re.fullmatch(r"[\w./-]*", name) else "something else, not shown as it may hold a token"
    return f"expected {HUB}{text}, found {shown}"


def shield() -> dict[str, str]:
    """Hide a torchaudio or torchvision that cannot load, before transformers' models are imported.

    SpikingJelly requires both packages, and a registry may offer builds that raise beside the
    installed torch. transformers believes that what is installed can be imported, so
    `from transformers import Trainer` dies with a message that names something else. A package that
    cannot be imported is hidden here from every later import and from every `find_spec`, as if it
    were not installed. One that works is left alone; the import costs nothing extra, as
    transformers does it itself.

    Returns package -> why it is hidden. Later calls return the same and do nothing.
    """
    global _hidden
    if _hidden is None:
        importlib.import_module("torch")  # a torch that cannot load must say so itself
        reasons = {name: _why_not(name) for name in ("torchaudio", "torchvision")}
        _hidden = {name: reason for name, reason in reasons.items() if reason}
        for name in _hidden:
            sys.modules[name] = None  # type: ignore[assignment]  # makes an import fail
        if _hidden:
            _forget_availability()
    return dict(_hidden)


def _why_not(package: str) -> str:
    """Why an installed package cannot be imported; "" if it can, or is imported or not there."""
    if package in sys.modules or importlib.util.find_spec(package) is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about an optional codec is no failure
            importlib.import_module(package)
    except Exception as error:  # a foreign binary may raise anything
        return describe(error)
    return ""


def _forget_availability() -> None:
    """Drop what libraries imported earlier have noted about the hidden packages."""
    transformers = sys.modules.get("transformers.utils.import_utils")
    for function in list(vars(transformers).values()) if transformers else []:
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    datasets = sys.modules.get("datasets.config")
    if datasets and _hidden and "torchvision" in _hidden:
        datasets.TORCHVISION_AVAILABLE = False  # type: ignore[attr-defined]


@contextmanager
def reached() -> Iterator[bool]:
    """Ask the hub once whether it is there; yields whether it answered. If not, the libraries are
    held offline inside: they look into their cache and do not try again and again."""
    from huggingface_hub import constants

    online = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    datasets = sys.modules.get("datasets")  # it keeps a switch of its own
    switches: list[Any] = [constants] if datasets is None else [constants, datasets.config]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    for switch in switches:
        switch.HF_HUB_OFFLINE = not online
    try:
        yield online
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


def _answers(address: str) -> bool:
    from huggingface_hub import get_session

    asked = ThreadPoolExecutor(1)  # a mute name server ignores the request's time limit
    try:
        asked.submit(get_session().head, address, timeout=PATIENCE).result(timeout=PATIENCE)
    except Exception:  # the HTTP library, and so its errors, differ between releases
        return False
    finally:
        asked.shutdown(wait=False, cancel_futures=True)
    return True
