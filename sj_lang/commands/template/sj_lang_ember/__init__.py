"""The spiking neuron ember, for sj_lang."""
