from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from sj_lang.hf import shield

shield()

from tiny import offered, write_recipe  # noqa: E402

from sj_lang import run  # noqa: E402
from sj_lang.recipe import load  # noqa: E402
from sj_lang.run import measurements  # noqa: E402

measurements._COSTED = 2  # the energy of 32 samples would take a third of a tiny run's time


@pytest.fixture(autouse=True)
def _components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Iterator[None]:
    """The tiny components, a working directory of one's own,
    and figures drawn only where they are looked at.
    """
    monkeypatch.chdir(tmp_path)
    with offered():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe, with its figures, which nobody may change."""
    folder = tmp_path_factory.mktemp("finished")
    with offered(), contextlib.redirect_stdout(io.StringIO()):
        run.execute(load(write_recipe(folder), [f"output={folder / 'r'}"]))
    return folder / "r"
