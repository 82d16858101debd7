"""A place of one's own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _figures(undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are drawn only where they are looked at; runs are written into an empty folder."""
    monkeypatch.chdir(tmp_path)
