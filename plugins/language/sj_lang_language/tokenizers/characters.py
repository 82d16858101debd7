"""One token per character."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "<pad>", "<unk>"


def characters(*, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token for each character of the training text, in the order of their code points.

    Two more tokens: `<pad>`, id 0, and `<unk>`, id 1, which stands for every character that the
    training text does not hold. No text is read as one of the two: a literal "<pad>" is five
    characters. Decoding gives the text back exactly, except for unknown characters.
    """
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, *sorted(seen)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
