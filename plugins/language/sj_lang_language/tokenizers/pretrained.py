"""A tokenizer that exists already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sj_lang import hf
from sj_lang.errors import Unreachable, UserError
from sj_lang.folder import model_folder
from sj_lang_language.tokenizers.wordpiece import VOCAB


def pretrained(
    *, texts: Iterable[str], name: str | None = None, checkpoint: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of that name on the Hugging Face hub, as `AutoTokenizer` loads it.

    name: a path, also of a run folder, or "owner/name" on the hub. None: the tokenizer of the checkpoint that the model
    starts from (model.init_from), which is handed in as `checkpoint`. texts: not read, as nothing is
    trained. Padding is on the left, as generation needs it; a tokenizer without a padding token pads with its
    end-of-text token.
    """
    key = "model.init_from" if name is None else "tokenizer.name"
    name = checkpoint if name is None else name
    if name is None:
        raise UserError(
            "model.init_from is not set: this recipe takes its tokenizer and weights from a checkpoint. Give one, e.g. "
            "model.init_from=FOLDER, a run folder or one with config.json and model.safetensors (tokenizer.name=FOLDER "
            "takes the tokenizer from another one)"
        )
    folder = model_folder(name, key)
    if folder.exists():
        tokenizer = _load(folder, f"{key}: no tokenizer in {name}")
    else:
        with hf.reached() as online:
            tokenizer = _load(
                name, f"{key}: no tokenizer '{name}', neither as a path nor on the hub", offline=not online
            )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{key}: the tokenizer {name} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(place: Path | str, prefix: str, *, offline: bool = False) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(place, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        if offline:
            reason = "the Hugging Face hub cannot be reached and the local cache has no copy"
            raise Unreachable(f"{prefix}: {reason}") from error
        reason = str(error)
        if isinstance(place, Path) and (place / VOCAB).is_file():
            reason = f"it holds only a {VOCAB}; write tokenizer: {{type: wordpiece, vocab: {place}}}"
        raise UserError(f"{prefix}: {reason}") from error
