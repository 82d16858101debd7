"""sj_lang: a plugin ecosystem for spiking language models on SpikingJelly."""

__version__ = "0.1.0"
