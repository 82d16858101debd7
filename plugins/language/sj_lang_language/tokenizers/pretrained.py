"""A tokenizer that exists already."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sj_lang.errors import UserError
from sj_lang.hf.checkpoint import find
from sj_lang.hf.loading import load_tokenizer
from sj_lang_language.tokenizers.wordpiece import VOCAB


def pretrained(
    *, texts: Iterable[str], name: str | None = None, checkpoint: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, as `AutoTokenizer` loads it.

    name: a folder, also of a run, package:NAME or hub:OWNER/NAME. None: the tokenizer of the
    checkpoint that the model starts from (model.init_from), which is handed in as `checkpoint`.
    texts: not read, as nothing is trained. Padding is on the left, as generation needs it; a
    tokenizer without a padding token pads with its end-of-text token.
    """
    key = "model.init_from" if name is None else "tokenizer.name"
    name = checkpoint if name is None else name
    if name is None:
        raise UserError(
            "model.init_from is not set: this recipe takes its tokenizer and weights from a checkpoint. Give one, e.g. "
            "model.init_from=FOLDER, a run folder or one with config.json and model.safetensors; package:NAME, inside "
            "an installed package; or hub:OWNER/NAME (tokenizer.name takes the tokenizer from another one)"
        )
    source = find(name, key)
    try:
        tokenizer = load_tokenizer(source, f"{key}: no tokenizer in {name}", padding_side="left")
    except UserError as error:
        if isinstance(source, Path) and (source / VOCAB).is_file():
            hint = f"it holds only a {VOCAB}; write tokenizer: {{type: wordpiece, vocab: {source}}}"
            raise UserError(f"{key}: no tokenizer in {name}: {hint}") from error
        raise
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{key}: the tokenizer {name} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
