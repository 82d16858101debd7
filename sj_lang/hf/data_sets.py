"""Data sets of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

from typing import Any

from sj_lang.errors import Unreachable, UserError
from sj_lang.hf import HUB, reached


def load(place: str, *, instead: str, **options: Any) -> Any:
    """All splits of a data set, name -> rows.

    place: "hub:owner/name[/config]". instead: what to give without a network, for the error.
    options: of `load_dataset`. Raises UserError at once if there is neither a network nor a copy in
    the local cache.
    """
    import datasets

    owner, _, rest = place.removeprefix(HUB).partition("/")
    name, _, config = rest.partition("/")
    with reached() as online:
        try:
            return datasets.load_dataset(f"{owner}/{name}", *filter(None, [config]), **options)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if not online:
                raise Unreachable(
                    f"task.data: {place} cannot be loaded: the Hugging Face hub cannot be reached and the local cache "
                    f"has no copy; with a network it is downloaded once; without one, give {instead}"
                ) from error
            cause = error.__cause__ or error
            raise UserError(f"task.data: {place} cannot be loaded: {str(cause).strip()}") from error
