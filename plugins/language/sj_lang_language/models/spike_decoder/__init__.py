"""SpikeDecoder: GPT with spiking neurons. `config` has sizes and parts, `blocks` computes."""

from sj_lang_language.models.spike_decoder.config import SpikeDecoderConfig
from sj_lang_language.models.spike_decoder.model import SpikeDecoderForCausalLM, SpikeDecoderModel

__all__ = ["SpikeDecoderConfig", "SpikeDecoderForCausalLM", "SpikeDecoderModel"]
