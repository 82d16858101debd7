"""What all tests share: no network, no display, and little work beside the tests' own."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_collection_finish() -> None:
    """Collections of garbage, of which every run asks for some, leave out what was imported: torch alone costs .3 s."""
    gc.collect()
    gc.freeze()
