"""Windows whose tokens are masked: what a masked language model reads and predicts."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from sj_lang.task import NumberedEpochs
from sj_lang_language.data.text.windows import IGNORED

MASK = "[MASK]"

Item = dict[str, Tensor]


class Items(Protocol):
    """Unmasked items, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


def add_mask_token(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give a tokenizer without a mask token one, `[MASK]`, as its last id, and return a note."""
    if tokenizer.mask_token is not None:
        return []
    tokenizer.add_special_tokens({"mask_token": MASK})
    return [f"the tokenizer has no mask token: {MASK} is added"]


class Frame:
    """Puts tokens into an input of `length`: `[CLS] tokens [SEP]`, or `[CLS] a [SEP] b [SEP]`.

    A special token that the tokenizer lacks is left out. room: how many tokens of text fit.

    Each item has `input_ids` and `special_tokens_mask` (True: may not be masked), `[L]`; a pair is
    filled up with the padding token and has `attention_mask`, `token_type_ids` and
    `next_sentence_label` too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, *, pairs: bool = False) -> None:
        begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.begin = torch.tensor([] if begin is None else [begin], dtype=torch.long)
        self.end = torch.tensor([] if end is None else [end], dtype=torch.long)
        self.length, self.pad = length, tokenizer.pad_token_id or 0
        self.room = length - len(self.begin) - len(self.end) * (2 if pairs else 1)

    def window(self, tokens: Tensor, seen: int = 0) -> Item:
        """tokens: `room` of them. The first `seen` are context: they are not masked."""
        ids = torch.cat([self.begin, tokens.long(), self.end])
        closed = torch.ones(len(ids), dtype=torch.bool)
        closed[len(self.begin) + seen : len(self.begin) + len(tokens)] = False
        return {"input_ids": ids, "special_tokens_mask": closed}

    def pair(self, first: Tensor, second: Tensor, label: int) -> Item:
        """label: 0 if `second` goes on where `first` ends, 1 if it is from elsewhere."""
        head = len(self.begin) + len(first) + len(self.end)
        ids = torch.cat([self.begin, first.long(), self.end, second.long(), self.end])
        used = len(ids)
        closed, kinds = torch.zeros(used, dtype=torch.bool), torch.zeros(used, dtype=torch.long)
        closed[: len(self.begin)] = closed[head - len(self.end) : head] = closed[used - len(self.end) :] = True
        kinds[head:] = 1
        spare = (0, self.length - used)
        return {
            "input_ids": torch.nn.functional.pad(ids, spare, value=self.pad),
            "special_tokens_mask": torch.nn.functional.pad(closed, spare, value=True),
            "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), spare),
            "token_type_ids": torch.nn.functional.pad(kinds, spare),
            "next_sentence_label": torch.tensor(label),
        }


class Windows:
    """Windows one after another over a sequence of tokens.

    In training a rest that fills no window is left out. Held out, the last window ends with the
    text: what it shares with the window before is context, so each token can be masked in exactly
    one window and nothing is padded.
    """

    def __init__(self, tokens: Tensor, frame: Frame, *, held_out: bool) -> None:
        self.tokens, self.frame, self.held_out = tokens, frame, held_out

    def __len__(self) -> int:
        room = self.frame.room
        return -(-len(self.tokens) // room) if self.held_out else len(self.tokens) // room

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        room = self.frame.room
        start = min(index * room, len(self.tokens) - room)
        return self.frame.window(self.tokens[start : start + room], seen=index * room - start)


class Masking:
    """BERT's masking (Devlin et al. 2019), drawn by transformers' DataCollatorForLanguageModeling.

    Each token of the text is chosen with probability p; of these .8 become the mask token, .1 a
    random token, .1 stay. If none was chosen, the item is drawn again (ours), so it has a loss.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, p: float) -> None:
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=p)

    def __call__(self, item: Item, *seed: int) -> Item:
        """The item masked; equal seeds give equal masks."""
        (state,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        self.collator.generator = torch.Generator().manual_seed(int(state) >> 1)
        closed = item["special_tokens_mask"]
        labels = torch.full_like(item["input_ids"], IGNORED)
        while not bool((labels != IGNORED).any()):
            ids, labels = self.collator.torch_mask_tokens(item["input_ids"].clone(), special_tokens_mask=closed)
        rest = {name: value for name, value in item.items() if name != "special_tokens_mask"}
        return {**rest, "input_ids": ids, "labels": labels}


class Masked(NumberedEpochs):
    """Items, masked by (seed, epoch, number): anew in each epoch, also of a resumed training.

    In evaluation the epoch is never set, and the masks are always the same.
    """

    def __init__(self, items: Items | Sequence[Item], masking: Masking, seed: int) -> None:
        self.items, self.masking, self.seed = items, masking, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.masking(self.items[index], self.seed, self.epoch, index)
