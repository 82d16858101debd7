"""What a forward pass costs, and integer spikes as the binary ones that they stand for."""

from sj_lang.energy.ledger import Ledger, energy, ledger, millijoules
from sj_lang.energy.products import spikes
from sj_lang.energy.unroll import unrolled

__all__ = ["Ledger", "energy", "ledger", "millijoules", "spikes", "unrolled"]
