"""What differs between the environments that sj_lang meets. Nothing else in the package knows."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings

from sj_lang.hookspecs import describe

_hidden: dict[str, str] | None = None


def shield() -> dict[str, str]:
    """Hide a torchaudio or torchvision that cannot load; call it before transformers' models or Trainer are imported.

    SpikingJelly requires both packages, and a registry may offer builds that raise beside the installed torch.
    transformers believes that what is installed can be imported, so `from transformers import Trainer` dies with a
    message that names something else. A package that cannot be imported is hidden here from every later import and
    from every `find_spec`, as if it were not installed. One that works is left alone; the import costs nothing
    extra, as transformers does it itself.

    Returns package -> why it is hidden. Later calls return the same and do nothing.
    """
    global _hidden
    if _hidden is None:
        importlib.import_module("torch")  # a torch that cannot load must say so itself
        reasons = {name: _why_not(name) for name in ("torchaudio", "torchvision")}
        _hidden = {name: reason for name, reason in reasons.items() if reason}
        for name in _hidden:
            sys.modules[name] = None  # type: ignore[assignment]  # the documented way to make an import fail
        if _hidden:
            _forget_availability()
    return dict(_hidden)


def _why_not(package: str) -> str:
    """Why an installed package cannot be imported; "" if it can, if it is imported already or not installed."""
    if package in sys.modules or importlib.util.find_spec(package) is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about an optional codec is no failure
            importlib.import_module(package)
    except Exception as error:  # a foreign binary may raise anything: OSError, RuntimeError, AttributeError
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
