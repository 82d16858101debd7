from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sj_lang.compat import shield

shield()

from tiny import offered  # noqa: E402

from sj_lang import figures  # noqa: E402

_DRAW = ("test_run_finished", "test_run_figures")


def _undrawn(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a drawing")


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """The tiny components, a working directory of one's own, and figures drawn only where they are looked at."""
    monkeypatch.chdir(tmp_path)
    if request.module.__name__ not in _DRAW:
        monkeypatch.setattr(figures, "_save", _undrawn)
    with offered():
        yield
