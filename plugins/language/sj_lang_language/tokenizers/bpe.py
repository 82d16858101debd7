"""Byte-pair encoding, trained on the training text."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sj_lang.errors import UserError
from sj_lang_language.tokenizers.characters import BOUNDARY, PAD
from sj_lang_language.tokenizers.pieces import pieces

SMALLEST = 257  # all bytes and the padding token, without a boundary


def bpe(
    *, texts: Iterable[str], vocab_size: int = 1024, min_frequency: int = 2, boundary: bool = True
) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2 (Radford et al. 2019), trained by the library `tokenizers`.

    vocab_size: tokens, at least 258: the 256 bytes, `<pad>`, id 0, and `<|endoftext|>`; a short
    text may end with fewer. min_frequency: how often a pair must occur to be merged. There is no
    unknown token, and decoding gives each text back exactly. No text is read as `<pad>`.

    boundary: `<|endoftext|>`, id 1, begins and ends a text (bos and eos) for tools that need such a
    token, as lm-eval's rolling likelihood does. No training text holds it. False: there is none.
    """
    if vocab_size < SMALLEST + boundary:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}; bpe needs {SMALLEST + boundary} or more: 256 bytes and {PAD}"
            + boundary * f" and {BOUNDARY}"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[PAD, *[BOUNDARY] * boundary],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(pieces(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **(dict.fromkeys(("bos_token", "eos_token"), BOUNDARY) if boundary else {}),
    )
