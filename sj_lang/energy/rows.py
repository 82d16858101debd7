"""A row of the ledger: what one operation of one layer does, and what it costs by a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sj_lang.energy.costs import Costs
from sj_lang.energy.products import Operand

COLUMNS = ("weights", "states", "activations")
#: bytes by column and by the size of the operand that holds them
Moved = defaultdict[tuple[str, float], float]


@dataclass(kw_only=True)
class Row:
    """Sums over all calls. kind: "product", "neuron" or "other".

    macs, accumulations: of a product, or inside a neuron. others: operations of any other kind.
    spiking_terms: multiplications that spikes spare. operands: what was multiplied, the widest of
    all calls, None for weights; of a neuron, what it fired. moved: the bytes that it reads and
    writes; dense: the same with floats in the place of spikes.
    """

    layer: str
    operation: str
    kind: str
    calls: int = 0
    macs: float = 0.0
    accumulations: float = 0.0
    others: float = 0.0
    spiking_terms: float = 0.0
    neuron_steps: int = 0
    operands: list[Operand | None] = field(default_factory=list)
    moved: Moved = field(default_factory=lambda: defaultdict(float))
    dense: Moved = field(default_factory=lambda: defaultdict(float))

    def hold(self, operands: Sequence[Operand | None]) -> None:
        """Widen `operands` by those of another call."""
        before = self.operands or operands
        self.operands = [
            old.wider(new) if old and new else old or new for old, new in zip(before, operands, strict=True)
        ]

    def move(self, column: str, size: float, *, held: float | None = None, dense: float | None = None) -> None:
        """Add `size` bytes of an operand of `held` bytes. dense: its bytes as floats."""
        self.moved[column, size if held is None else held] += size
        as_floats = size if dense is None else dense
        self.dense[column, as_floats if held is None else held] += as_floats

    def bytes(self, *columns: str) -> float:
        return sum((size for (column, _), size in self.moved.items() if column in (columns or COLUMNS)), 0.0)

    def compute(self, costs: Costs) -> float | None:
        """pJ of its operations; None if the table lacks one of them."""
        if self.kind == "neuron" and costs.neuron is not None:
            return self.neuron_steps * costs.neuron
        parts = (self.macs, costs.mac), (self.accumulations, costs.accumulation), (self.others, costs.other)
        if any(count and price is None for count, price in parts):
            return None
        return sum(count * (price or 0.0) for count, price in parts)

    def memory(self, costs: Costs) -> float:
        """pJ of the bytes that it moves."""
        return _price(self.moved, costs)

    def twin(self, costs: Costs) -> float | None:
        """pJ, memory included, with floats in the place of spikes, and without neurons."""
        if self.kind == "neuron":
            return 0.0
        macs = self.macs + self.spiking_terms
        if (macs and costs.mac is None) or (self.others and costs.other is None):
            return None
        return macs * (costs.mac or 0.0) + self.others * (costs.other or 0.0) + _price(self.dense, costs)

    @property
    def operands_text(self) -> str:
        """Its operands in words."""
        return " x ".join("weights" if one is None else one.kind for one in self.operands)


def _price(moved: Moved, costs: Costs) -> float:
    return sum((size * costs.byte(held) for (_, held), size in moved.items()), 0.0)
