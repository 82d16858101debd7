"""The embedding: from token ids to spikes."""

from torch import Tensor, nn

from sj_lang.compat import surrogate


class Ember(nn.Module):
    """s = 1 if E[id] >= 0 else 0: a table of tokens, made binary, without positions.

    vocab_size, dim, max_length: sizes; twin: the floats of the ANN twin. All are handed in.
    surrogate_function: name of a surrogate of SpikingJelly, through which the table learns.
    """

    handed_in = frozenset({"vocab_size", "dim", "max_length", "twin"})

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        max_length: int,
        twin: bool = False,
        surrogate_function: str = "ATan",
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, dim)
        self.fire = nn.Identity() if twin else surrogate(surrogate_function)

    def forward(
        self,
        ids: Tensor | None,
        positions: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """ids [L, B] to spikes [L, B, D]. vectors: [L, B, D], in the place of the table's rows."""
        spikes: Tensor = self.fire(self.token(ids) if vectors is None else vectors)
        return spikes
