"""Modules of SpikingJelly that 0.0.0.0.14 imports late, with warnings that no test caused."""

from sj_lang.compat import spikingjelly

for module in ("functional", "layer", "neuron", "monitor"):
    spikingjelly(module)
