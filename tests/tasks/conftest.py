"""A place of one's own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from sj_lang.hf import shield

shield()

from sj_lang.run import measurements  # noqa: E402

measurements._COSTED = 2  # the energy of 32 samples would take a third of a tiny run's time


@pytest.fixture(autouse=True)
def _figures(undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are drawn only where they are looked at; runs are written into an empty folder."""
    monkeypatch.chdir(tmp_path)
