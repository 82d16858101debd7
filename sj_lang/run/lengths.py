"""Batches of texts of one length, which need no padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from sj_lang.task import NumberedEpochs


class OneLength(NumberedEpochs, Sampler[int]):
    """An order in which each `batch` indices in a row have one length, drawn anew in each epoch.

    What is left of each length goes, sorted, into batches of neighbouring lengths: fewer than one
    per length. The batches come in any order, an incomplete one last. transformers' own sampler
    sorts 50 batches at a time, so most of its batches hold some padding; a network that has to heed
    a mask pays for the whole batch.

    lengths: of each example, in tokens. batch: examples. seed and `set_epoch` decide the order, so
    a resumed training goes on in it.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = np.asarray(lengths), batch, seed

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = draw.permutation(len(self.lengths))
        order = order[np.argsort(self.lengths[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self.lengths[order])) + 1
        whole, left = [], []
        for group in np.split(order, starts):
            used = len(group) - len(group) % self.batch
            whole += [*group[:used].reshape(-1, self.batch)]
            left.append(group[used:])
        rest = np.concatenate(left)
        used = len(rest) - len(rest) % self.batch
        # what is over does not always come from the longest texts
        first = int(draw.integers(0, len(rest) - used + 1))
        whole += [*rest[first : first + used].reshape(-1, self.batch)]
        for index in draw.permutation(len(whole)):
            yield from whole[index].tolist()
        yield from rest[:first].tolist()
        yield from rest[first + used :].tolist()
