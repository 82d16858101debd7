"""One token per character."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, BOUNDARY = "<pad>", "<unk>", "<|endoftext|>"
PLAIN = "abcdefghijklmnopqrstuvwxyz.' "


def characters(*, texts: Iterable[str], plain: bool = False, boundary: bool = True) -> PreTrainedTokenizerFast:
    """A token for each character of the training text, in the order of their code points.

    Three more tokens: `<pad>`, id 0, `<unk>`, id 1, which stands for every character that the
    training text does not hold, and `<|endoftext|>`. No text is read as one of them: a literal
    "<pad>" is five characters. Decoding gives the text back exactly, except for unknown characters.

    plain: SpikeDecoder's 29 characters, whatever the text: a to z, `.`, `'` and space. Letters are
    small, `!` and `?` are full stops, `;` and `--` spaces; what is left is unknown.
    boundary: `<|endoftext|>`, id 2, begins and ends a text (bos and eos) for tools that need such a
    token, as lm-eval's rolling likelihood does. No training text holds it. False: there is none.
    """
    if plain:
        texts = [PLAIN]
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    special = [PAD, UNKNOWN, *[BOUNDARY] * boundary]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(seen)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    if plain:
        changes = {"!": ".", "?": ".", ";": " ", "--": " ", "\n": " "}
        replaced = [normalizers.Replace(old, new) for old, new in changes.items()]
        core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *replaced])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **(dict.fromkeys(("bos_token", "eos_token"), BOUNDARY) if boundary else {}),
    )
