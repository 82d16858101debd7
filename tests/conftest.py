"""What all tests share: no network, no display, one thread, the machine's cores,
and little work beside their own.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# of torch, also in processes that tests start: sizes are tiny, and cores are taken
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["SJ_LANG_CACHE"] = ""  # checks of recipes start from nothing

MOST_WORKERS = 4  # each imports torch and transformers, and takes up to 1.5 GB of memory
#: folders in the order of their tests. The first worker begins with the neurons and so compiles the
#: numba kernels, which are then on the disk; the others begin where no kernel is needed.
ORDER = ("neurons", "cuda", "kit", "host", "run", "tasks", "docs", "packaging", "bench", "language")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the tests over the cores, where pytest-xdist is installed; `-n 0`: do not.

    Nor is it done where one process is better: for a test that is asked for by name, for what
    prints (`-s`) or is debugged, and on a GPU, whose memory is measured.
    """
    option = config.option
    single = option.usepdb or option.capture == "no" or option.markexpr == "gpu" or any("::" in a for a in config.args)
    if getattr(option, "numprocesses", 0) is None and not hasattr(config, "workerinput") and not single:
        option.numprocesses = min(os.cpu_count() or 1, MOST_WORKERS)
        option.dist = "worksteal" if option.dist == "no" else option.dist


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder, see ORDER; one that is not in it comes last."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: next((places[up] for up in item.path.parents if up in places), len(ORDER)))


def pytest_collection_finish() -> None:
    """Collections of garbage, of which every run asks for some, leave out what was imported:
    torch alone costs .3 s.
    """
    gc.collect()
    gc.freeze()


def _without_drawing(patch: pytest.MonkeyPatch) -> None:
    """Figures are files without a drawing."""

    def write(figure: object, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a drawing")

    patch.setattr("sj_lang.report.figures._save", write)


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, except in tests marked `draws`."""
    if request.node.get_closest_marker("draws") is None:
        _without_drawing(monkeypatch)


@pytest.fixture(scope="module")
def undrawn_in_module() -> Iterator[None]:
    """The same for a run that the tests of a module share."""
    with pytest.MonkeyPatch.context() as patch:
        _without_drawing(patch)
        yield
