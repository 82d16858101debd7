"""SpikeDecoder: the GPT architecture with spiking neurons."""

from sj_lang_language.models.spike_decoder.model import SpikeDecoderConfig, SpikeDecoderForCausalLM

__all__ = ["SpikeDecoderConfig", "SpikeDecoderForCausalLM"]
