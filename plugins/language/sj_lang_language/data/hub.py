"""Text sets of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sj_lang.errors import UserError
from sj_lang_language.data.text_files import PARTS

PATIENCE = 5.0  # seconds; the libraries' own retries take 23


@contextmanager
def reached() -> Iterator[bool]:
    """Ask the hub once whether it is there. If not, the libraries are held offline inside: they look into their cache
    and do not try again and again. Yields whether it answered."""
    import datasets
    from huggingface_hub import constants

    online = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = (not online,) * 2
    try:
        yield online
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


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


def read(name: str, config: str | None) -> dict[str, str]:
    """The splits `train`, `validation` and `test` of a data set as texts, or `{"all": text}` if it has one split.

    name: "owner/name". The text is the column `text`, or the only column of strings; each row ends with a line end.
    Raises UserError with one sentence, at once, when there is no network and no copy in the local cache.
    """
    import datasets

    place = f"hub:{name}/{config}" if config else f"hub:{name}"
    with reached() as online:
        try:
            loaded = datasets.load_dataset(name, config)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if not online:
                raise UserError(
                    f"task.data: {place} cannot be loaded: the Hugging Face hub cannot be reached and the local cache "
                    "has no copy; with a network it is downloaded once, without one give a file (task.data=PATH)"
                ) from error
            cause = error.__cause__ or error
            raise UserError(f"task.data: {place} cannot be loaded: {str(cause).strip()}") from error
    found = {PARTS[split]: loaded[split] for split in loaded if split in PARTS}
    if "train" not in found:
        if len(loaded) != 1:
            raise UserError(f"task.data: {place} has no split 'train', it has {', '.join(map(str, loaded))}")
        found = {"all": next(iter(loaded.values()))}
    return {part: _text(rows, place) for part, rows in found.items()}


def _text(rows: Any, place: str) -> str:
    strings = [name for name, feature in rows.features.items() if getattr(feature, "dtype", "").endswith("string")]
    column = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    if column is None:
        raise UserError(
            f"task.data: {place} has no column 'text' and not exactly one column of strings; "
            f"its columns: {', '.join(rows.features)}"
        )
    return "".join(row if row.endswith("\n") or not row else f"{row}\n" for row in rows[column] if row is not None)
