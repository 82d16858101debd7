"""Spiking neurons that train in parallel over long sequences, `BPSN` and `DSN`; and `SubSteps`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sj_lang_neurons.bpsn.node import BPSN
    from sj_lang_neurons.dsn.node import DSN
    from sj_lang_neurons.sub_steps.node import SubSteps

#: name -> its folder
_FOLDERS = {"BPSN": "bpsn", "DSN": "dsn", "SubSteps": "sub_steps"}
__all__ = ["BPSN", "DSN", "SubSteps"]


def __getattr__(name: str) -> Any:
    """Import a neuron when it is first asked for: a plugin is found and listed without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'sj_lang_neurons' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FOLDERS[name]}.node"), name)
