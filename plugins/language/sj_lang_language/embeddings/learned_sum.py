"""Learned spike embedding: token and position tables, summed, then binarised."""

from typing import Literal

from torch import Tensor, nn

from sj_lang import compat


class LearnedSum(nn.Module):
    """S = step(E_token[id] + E_position[position]) in {0, 1}.

    From Beger et al. 2026 (arXiv 2606.12287). The gradient passes the step through a surrogate, so
    both tables learn. The ANN twin keeps the sum as it is.

    vocab_size: V; dim: D; max_length: positions; twin: the float embedding of the ANN twin (handed
        in by the model).
    surrogate_function: a SpikingJelly surrogate by name, for the step at 0.
    position: "learned"; or "none" (ours), if neurons that run along the tokens know the order;
        then texts may have any length. std, position_std: deviation of the normal distributions
        from which the tables are drawn; None: the model's `initializer_range`. If both
        deviations are equal, positions flip a quarter of the bits.
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
        position: Literal["learned", "none"] = "learned",
        std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        self.max_length = max_length if position == "learned" else None
        self.token = EmbeddingTable(vocab_size, dim, std)
        self.position = EmbeddingTable(max_length, dim, position_std) if position == "learned" else None
        self.step = nn.Identity() if twin else compat.surrogate(surrogate_function)

    def forward(
        self,
        ids: Tensor | None,
        positions: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """ids, positions `[L, B]` to spikes `[L, B, D]`. segments and mask are not read.

        vectors: `[L, B, D]`, in the place of the table's rows; ids may then be None.
        """
        currents: Tensor = self.token(ids) if vectors is None else vectors
        if self.position is not None:
            currents = currents + self.position(positions)
        spikes: Tensor = self.step(currents)
        return spikes


class EmbeddingTable(nn.Embedding):
    """An embedding table. std: deviation of its fresh weights; None: that of the model."""

    def __init__(self, rows: int, dim: int, std: float | None) -> None:
        super().__init__(rows, dim)
        self.std = std
