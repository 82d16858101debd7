"""Whether the Hugging Face hub is there, asked once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

PATIENCE = 5.0  # seconds; the libraries' own retries take 23


@contextmanager
def reached() -> Iterator[bool]:
    """Ask the hub once whether it is there. If not, the libraries are held offline inside: they look into their cache
    and do not try again and again. Yields whether it answered."""
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

    asked = ThreadPoolExecutor(1)  # a name server that does not answer ignores the time limit of the request
    try:
        asked.submit(get_session().head, address, timeout=PATIENCE).result(timeout=PATIENCE)
    except Exception:  # the HTTP library behind differs between releases, and so do its errors
        return False
    finally:
        asked.shutdown(wait=False, cancel_futures=True)
    return True
