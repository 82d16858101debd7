from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sj_lang.hf import shield

shield()

from tiny import offered  # noqa: E402


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Iterator[None]:
    """The tiny components, a working directory of one's own,
    and figures drawn only where they are looked at.
    """
    monkeypatch.chdir(tmp_path)
    with offered():
        yield
