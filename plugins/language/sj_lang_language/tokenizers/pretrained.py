"""A tokenizer that exists already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang_language.data import hub


def pretrained(*, texts: Iterable[str], name: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of that name on the Hugging Face hub, as `AutoTokenizer` loads it.

    name: a path, or "owner/name" on the hub. texts: not read, as nothing is trained. Padding is on the left, as
    generation needs it; a tokenizer without a padding token pads with its end-of-text token.
    """
    local = Path(name).expanduser()
    try:
        if local.exists():
            tokenizer = AutoTokenizer.from_pretrained(local, padding_side="left", local_files_only=True)
        else:
            with hub.reached() as online:
                tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", local_files_only=not online)
    except (OSError, ValueError) as error:
        where = f"the folder {name}" if local.exists() else f"'{name}', which is no path here and"
        raise UserError(f"tokenizer.name: no tokenizer in {where} cannot be loaded from the hub: {error}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"tokenizer.name: the tokenizer {name} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
