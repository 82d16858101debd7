"""BERT's embedding with a convolution over neighbours and matches in a pair."""

from typing import Any

import torch
from torch import Tensor, nn

from sj_lang_language.embeddings.bert_sum import BertSum
from sj_lang_language.embeddings.learned_sum import EmbeddingTable


class BertNgram(BertSum):
    """E = LayerNorm(X + Conv_n(dropout(X))), X = the sum of `BertSum` + M (ours).

    For training without pre-training. The convolution is that of Kim 2014 (arXiv 1408.5882), added
    to the stream; it sees nothing at padding, as beyond the end of a text. M is 0 without `match`;
    with it E_match[whether id stands in another segment too], DrQA's exact match (Chen et al. 2017,
    arXiv 1704.00051): few pairs do not teach which words two texts share.

    n: tokens that the convolution sees, an odd number. match: mark the tokens that both texts of a
    pair have. word_dropout: probability, in training, that a token's row of the table is 0. std,
    position_std: deviation of the normal distributions from which the tables of tokens and matches,
    and those of positions and segments, are drawn; None: the model's `initializer_range`. The
    others are those of `BertSum`, handed in.
    """

    def __init__(
        self,
        *,
        n: int = 3,
        match: bool = False,
        word_dropout: float = 0.0,
        std: float | None = None,
        position_std: float | None = None,
        **common: Any,
    ) -> None:
        if n < 1 or n % 2 == 0:
            raise ValueError(f"bert_ngram: n is {n}, expected an odd number of tokens: 1, 3, 5 ...")
        if not 0 <= word_dropout < 1:
            raise ValueError(f"bert_ngram: word_dropout is {word_dropout}, expected a probability below 1")
        super().__init__(**common)
        self.word_dropout, dim = word_dropout, self.token.embedding_dim
        self.word_embeddings = EmbeddingTable(self.token.num_embeddings, dim, std)
        self.position_embeddings = EmbeddingTable(self.max_length, dim, position_std)
        self.token_type_embeddings = EmbeddingTable(self.token_type_embeddings.num_embeddings, dim, position_std)
        self.match_embeddings = EmbeddingTable(2, dim, std) if match else None
        self.convolution = nn.Conv1d(dim, dim, n, padding=n // 2)

    def forward(
        self,
        ids: Tensor | None,
        positions: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Embed as `BertSum` does; valid tokens stand first, and `match` needs ids."""
        if ids is None and self.match_embeddings is not None:
            raise ValueError("bert_ngram with match compares the ids of tokens, so it takes no inputs_embeds")
        words = self.word_embeddings(ids) if vectors is None else vectors
        if self.training and self.word_dropout:
            words = words.masked_fill(torch.rand_like(words[..., :1]) < self.word_dropout, 0)
        segments = torch.zeros_like(positions) if segments is None else segments
        x = words + self.position_embeddings(positions) + self.token_type_embeddings(segments)
        if self.match_embeddings is not None and ids is not None:
            x = x + self.match_embeddings(_in_another(ids, segments, mask).long())
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        near = self.convolution(self.dropout(x).permute(1, 2, 0)).permute(2, 0, 1)  # [L, B, D]
        currents: Tensor = self.dropout(self.LayerNorm(x + near))
        return currents


def _in_another(ids: Tensor, segments: Tensor, mask: Tensor | None) -> Tensor:
    """`[L, B]`, True for a token whose id stands in another segment too."""
    same = (ids[:, None] == ids) & (segments[:, None] != segments)  # [L, L, B]
    return (same if mask is None else same & mask).any(1)
