"""BERT's embedding: tables of tokens, positions and segments, summed and normalized; floats."""

import torch
from torch import Tensor, nn


class BertSum(nn.Module):
    """E = LayerNorm(E_token[id] + E_position[position] + E_segment[segment]).

    BERT's (Devlin et al. 2019, arXiv 1810.04805); its parts have the names of BERT's checkpoints.

    vocab_size: V; dim: D; max_length: positions; type_vocab_size: segments; dropout: probability,
    on E; eps: of the LayerNorm; twin: changes nothing, there are no spikes in here (all handed in).
    """

    handed_in = frozenset({"vocab_size", "dim", "max_length", "type_vocab_size", "dropout", "eps", "twin"})

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        max_length: int,
        type_vocab_size: int = 2,
        dropout: float = 0.0,
        eps: float = 1e-5,
        twin: bool = False,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.word_embeddings = nn.Embedding(vocab_size, dim)
        self.position_embeddings = nn.Embedding(max_length, dim)
        self.token_type_embeddings = nn.Embedding(type_vocab_size, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    @property
    def token(self) -> nn.Embedding:
        """The table of tokens, under the name that all embeddings have for it."""
        return self.word_embeddings

    def forward(
        self,
        ids: Tensor | None,
        positions: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """ids, positions, segments (None: 0), mask (True = valid) `[L, B]` to `[L, B, D]`.

        vectors: `[L, B, D]`, in the place of the table's rows; ids may then be None.
        """
        segments = torch.zeros_like(positions) if segments is None else segments
        words = self.word_embeddings(ids) if vectors is None else vectors
        x = words + self.position_embeddings(positions) + self.token_type_embeddings(segments)
        currents: Tensor = self.dropout(self.LayerNorm(x))
        return currents
