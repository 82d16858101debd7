from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sj_lang.compat import shield

shield()

from tiny import offered  # noqa: E402


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with offered():
        yield
