"""A spiking Linear knows the neurons whose spikes enter it; a twin is the same class without."""

from __future__ import annotations

import copy

import pytest
import torch
from sj_lang_language.layers import Activation, SpikingLayer, SpikingLinear
from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertModel
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from torch import nn

SIZES = {"vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {
    "encoder.layer.0.attention.self.query": "encoder.layer.0.attention.neuron",
    "encoder.layer.0.attention.self.key": "encoder.layer.0.attention.neuron",
    "encoder.layer.0.attention.self.value": "encoder.layer.0.attention.neuron",
    "encoder.layer.0.attention.output.dense": "encoder.layer.0.attention.output.neuron",
    "encoder.layer.0.intermediate.dense": "encoder.layer.0.intermediate.neuron",
    "encoder.layer.0.output.dense": "encoder.layer.0.output.neuron",
}
DECODER = {
    "layers.0.attention.query": "layers.0.attention.input",
    "layers.0.attention.key": "layers.0.attention.input",
    "layers.0.attention.value": "layers.0.attention.input",
    "layers.0.attention.out_proj": "layers.0.attention.attended",
    "layers.0.mlp.up_proj": "layers.0.mlp.input",
    "layers.0.mlp.down_proj": "layers.0.mlp.hidden",
}


def neurons_in_front(model: nn.Module) -> dict[str, str]:
    """Name of each spiking Linear -> name of its layer of neurons."""
    names = {module: name for name, module in model.named_modules()}
    return {names[m]: names[m.neurons] for m in model.modules() if isinstance(m, SpikingLinear)}


@pytest.mark.parametrize("twin", [False, True])
def test_each_spiking_linear_knows_the_neurons_in_front_of_it(twin: bool) -> None:
    bert = SNNBertModel(SNNBertConfig(**SIZES, twin=twin))
    decoder = SpikeDecoderForCausalLM(SpikeDecoderConfig(**SIZES, twin=twin))
    for model, expected in ((bert, BERT), (decoder, DECODER)):
        assert neurons_in_front(model) == expected
        assert neurons_in_front(copy.deepcopy(model)) == expected
        layers = [module for module in model.modules() if isinstance(module, SpikingLayer)]
        assert {layer.spiking for layer in layers} == {not twin}


def test_the_neurons_stay_their_owners() -> None:
    layer = SpikingLayer(neuron=lambda channels: Activation(nn.PReLU(channels)), channels=3)
    linear = SpikingLinear(layer, 5, bias=False)
    assert [name for name, _ in linear.named_parameters()] == ["weight"]
    assert linear.weight.shape == (5, 3)
    assert torch.equal(linear(torch.eye(3)), linear.weight.T)
