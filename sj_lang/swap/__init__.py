"""Replace the spiking neurons of a network that exists: `swap(net, "dsn", example=x)`.

One line in code that already trains with SpikingJelly; everything else of it stays as it was.
"""

from sj_lang.swap.exchange import swap
from sj_lang.swap.report import SwapPlace, SwapReport

__all__ = ["SwapPlace", "SwapReport", "swap"]
