"""What a forward pass costs, and integer spikes as the binary ones that they stand for."""

from sj_lang.energy.products import energy, millijoules, spikes
from sj_lang.energy.unroll import unrolled

__all__ = ["energy", "millijoules", "spikes", "unrolled"]
