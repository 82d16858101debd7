"""WordPiece with BERT's special tokens, trained on the training text or read from a vocab.txt."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sj_lang.errors import UserError
from sj_lang_language.tokenizers.pieces import pieces

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB = "vocab.txt"

Level = Literal["words", "characters"]


def wordpiece(
    *,
    texts: Iterable[str],
    vocab_size: int = 8000,
    min_frequency: int = 2,
    lowercase: bool = True,
    level: Level = "words",
    vocab: str | None = None,
) -> PreTrainedTokenizerFast:
    """WordPiece as in BERT (Devlin et al. 2019): `[CLS] a [SEP]`, a pair `[CLS] a [SEP] b [SEP]`.

    vocab_size: tokens at most, the five special ones and the alphabet included; a short text ends
        with fewer. The alphabet is cut to the most frequent characters that fill half of it (ours).
    min_frequency: how often a character, or a pair of pieces that is to be merged, must occur in
        the texts. Rarer characters make their word `[UNK]`.
    lowercase: fold to lower case and drop accents, as the uncased BERT models do.
    level: "words" splits at spaces and punctuation, around each Chinese character, and learns
        pieces of words. "characters" (ours): every character but white space is a token, which
        suits Chinese; nothing is merged.
    vocab: a vocab.txt, or a folder that holds one, with one token a line and BERT's special tokens
        among them. Then nothing is trained, and `vocab_size` and `min_frequency` have no effect.

    Ids: `[PAD]` 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3, `[MASK]` 4 if trained, else those of the file.
    The same texts give the same ids in every process. Padding is on the right.
    """
    if vocab is not None:
        return assembled(read_vocab(Path(vocab).expanduser()), lowercase=lowercase, level=level)
    if vocab_size < len(SPECIAL) + 2:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}; wordpiece needs more than its {len(SPECIAL)} special tokens"
        )
    texts = list(texts)
    alphabet = _alphabet(texts, min_frequency, lowercase)
    if level == "characters":
        tokens = [*SPECIAL, *sorted(alphabet[: vocab_size - len(SPECIAL)])]
    else:
        tokens = _trained(texts, alphabet, vocab_size, min_frequency, lowercase)
    return assembled({token: index for index, token in enumerate(tokens)}, lowercase=lowercase, level=level)


def assembled(vocabulary: Mapping[str, int], *, lowercase: bool, level: Level = "words") -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary, token -> id, that holds BERT's special tokens."""
    core = Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    if level == "characters":
        each = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), each])
        core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        padding_side="right",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def read_vocab(place: Path) -> dict[str, int]:
    """Token -> line number, counted from 0. place: the file, or a folder with a vocab.txt."""
    path = place / VOCAB if place.is_dir() else place
    if not path.is_file():
        raise UserError(f"tokenizer.vocab: no file {path}; expected a {VOCAB} with one token a line, or its folder")
    try:
        lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"tokenizer.vocab: {path} is not UTF-8 (byte {error.start})") from error
    ids = {token: index for index, token in enumerate(lines)}
    if len(ids) < len(lines):
        first = next(token for index, token in enumerate(lines) if ids[token] != index)
        raise UserError(f"tokenizer.vocab: {path} holds {first!r} twice, on lines {lines.index(first) + 1} and later")
    lacking = [token for token in SPECIAL if token not in ids]
    if lacking:
        raise UserError(f"tokenizer.vocab: {path} lacks {', '.join(lacking)}; expected a vocabulary of BERT's form")
    return ids


def _alphabet(texts: Iterable[str], min_frequency: int, lowercase: bool) -> list[str]:
    """The characters that occur often enough, after normalization; the most frequent first."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    enough = [letter for letter, count in counts.items() if count >= min_frequency and not letter.isspace()]
    if not enough:
        raise UserError("tokenizer: the training text holds no character that occurs often enough")
    return sorted(enough, key=lambda letter: (-counts[letter], letter))


def _trained(
    texts: Iterable[str], alphabet: list[str], vocab_size: int, min_frequency: int, lowercase: bool
) -> list[str]:
    """The tokens in the order of their ids.

    The trainer of `tokenizers` numbers the continuing letters ("##a") in the order of a hash table,
    which differs from process to process, and breaks ties by these numbers; so they are handed to
    it sorted, like special tokens.
    """
    split = pre_tokenizers.BertPreTokenizer()
    alphabet = alphabet[: (vocab_size - len(SPECIAL)) // 2]
    inside = [letter for letter in sorted(alphabet) if len(split.pre_tokenize_str(f"a{letter}")) == 1]
    begin = [*SPECIAL, *(f"##{letter}" for letter in inside)]
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = split
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=len(alphabet),
        special_tokens=begin,
        show_progress=False,
    )
    core.train_from_iterator(pieces(texts), trainer)
    ids: dict[str, int] = core.get_vocab()
    return sorted(ids, key=ids.__getitem__)
