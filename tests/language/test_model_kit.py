"""The kit of a model: healthy ones pass, each planted fault is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from tiny_bert import build as build_bert

from sj_lang.testing.components import PartFailed
from sj_lang.testing.models import check_model

SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5}


class Decoder(SpikeDecoderForCausalLM):
    """A healthy one, whose subclasses get one fault each."""

    def forward(self, *args: Any, **more: Any) -> Any:
        return self.spoilt(super().forward(*args, **more), more)

    def spoilt(self, out: Any, given: dict[str, Any]) -> Any:
        return out


class RefusesNone(Decoder):
    def forward(self, input_ids: Any, **more: Any) -> Any:
        if "output_attentions" in more:
            raise TypeError("unexpected keyword argument 'output_attentions'")
        return super().forward(input_ids, **more)


class MixesTexts(Decoder):
    def spoilt(self, out: Any, given: dict[str, Any]) -> Any:
        if isinstance(out, tuple):
            return out
        out.logits = out.logits + out.logits.mean(0, keepdim=True)
        return out


class CountsPadding(Decoder):
    def forward(self, *args: Any, **more: Any) -> Any:
        return super().forward(*args, **{**more, "attention_mask": None})


class Peeks(Decoder):
    def spoilt(self, out: Any, given: dict[str, Any]) -> Any:
        if not isinstance(out, tuple):
            out.logits = out.logits + out.logits.roll(-1, 1)
        return out


class PeeksInTraining(Decoder):
    def spoilt(self, out: Any, given: dict[str, Any]) -> Any:
        if self.training:
            out.logits = out.logits + out.logits.roll(-1, 1)
        return out


class Forgets(Decoder):
    def forward(self, *args: Any, **more: Any) -> Any:
        if more.get("cache") is not None:
            more["cache"] = self.new_cache()
        return super().forward(*args, **more)


class LosesItsHead(Decoder):
    def save_pretrained(self, *args: Any, **more: Any) -> None:
        with torch.no_grad():
            self.lm_head.weight.zero_()
        super().save_pretrained(*args, **more)


class KeepsWhatWasBefore(Decoder):
    last = 0.0

    def spoilt(self, out: Any, given: dict[str, Any]) -> Any:
        if not isinstance(out, tuple):
            out.logits, self.last = out.logits + self.last, float(out.logits.mean())
        return out


class IgnoresVectors(Decoder):
    def forward(self, *args: Any, inputs_embeds: Any = None, **more: Any) -> Any:
        vectors = None if inputs_embeds is None else torch.zeros_like(inputs_embeds)
        return super().forward(*args, inputs_embeds=vectors, **more)


class CountsWhatHasNoLabel(Decoder):
    def forward(self, *args: Any, labels: Any = None, **more: Any) -> Any:
        return super().forward(*args, labels=None if labels is None else labels.clamp_min(0), **more)


class RestartsLeftPadding(Decoder):
    """Pieces after the first take a text that began with padding for one without."""

    def forward(self, *args: Any, **more: Any) -> Any:
        if more.get("cache") is not None and more.get("attention_mask") is not None:
            more["cache"] = self.new_cache()
            more["attention_mask"] = more["attention_mask"][:, -more["input_ids"].shape[1] :]
        return super().forward(*args, **more)


class DetachesItsBody(Decoder):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(1))


def test_a_healthy_model_passes() -> None:
    assert len(check_model(lambda: Decoder(SpikeDecoderConfig(**SIZES)), vocab_size=11, causal=True)) == 8


@pytest.mark.parametrize("kind", ["bpsn", "dsn", "repeat", "twin"])
def test_snn_bert_passes(kind: str) -> None:
    assert check_model(lambda: build_bert(kind), vocab_size=23, causal=False)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (RefusesNone, "called_as_transformers_own"),
        (MixesTexts, "texts_do_not_mix"),
        (CountsPadding, "padding_is_removal"),
        (Peeks, "causal_as_declared"),
        (PeeksInTraining, "causal_as_declared"),
        (Forgets, "pieces_equal_whole"),
        (LosesItsHead, "a_checkpoint_rebuilds_itself"),
        (KeepsWhatWasBefore, "texts_do_not_mix"),
        (IgnoresVectors, "called_as_transformers_own"),
        (CountsWhatHasNoLabel, "loss_is_of_the_labels"),
        (RestartsLeftPadding, "pieces_equal_whole"),
        (DetachesItsBody, "gradients_reach_all"),
    ],
)
def test_each_fault_of_a_model_is_named(fault: Any, check: str) -> None:
    with pytest.raises(PartFailed) as caught:
        check_model(lambda: fault(SpikeDecoderConfig(**SIZES)), vocab_size=11, causal=True)
    assert check in caught.value.failures
