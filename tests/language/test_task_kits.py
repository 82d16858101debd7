"""The tasks of language pass the kit of tasks. Those of distillation and GLUE need more than it
hands in, and are tested in files of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertForPreTraining, SNNBertForSequenceClassification
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang import build
from sj_lang.task import Prepared
from sj_lang.testing.models import check_task

SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def decoder(data: Prepared) -> Any:
    return SpikeDecoderForCausalLM(SpikeDecoderConfig(**SIZES, **data.model))


def encoder(head: Callable[..., Any]) -> Callable[[Prepared], Any]:
    return lambda data: head(SNNBertConfig(**SIZES, intermediate_size=8, **data.model))


@pytest.mark.parametrize(
    ("task", "tokenizer", "model"),
    [
        ({"type": "causal_lm", "length": 16, "eval_lengths": [32], "repeat_lengths": [8]}, "characters", decoder),
        ({"type": "masked_lm", "length": 16}, "characters", encoder(SNNBertForPreTraining)),
        ({"type": "masked_lm", "length": 16, "nsp": True}, "wordpiece", encoder(SNNBertForPreTraining)),
        (
            {"type": "text_classification", "length": 16, "text": "text"},
            "wordpiece",
            encoder(SNNBertForSequenceClassification),
        ),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_task(task: dict[str, Any], tokenizer: str, model: Any, tmp_path: Path) -> None:
    data = tmp_path / ("table.csv" if "text" in task else "text.txt")
    if "text" in task:
        rows = [f"a {'fine' if n % 2 else 'dull'} film, number {n},{n % 2}" for n in range(60)]
        data.write_text("\n".join(["text,label", *[f'"{row[:-2]}",{row[-1]}' for row in rows]]))
    else:
        data.write_text("so much depends upon a red wheel barrow glazed with rain\n\n" * 80)

    def seeded(prepared: Prepared) -> Any:
        torch.manual_seed(0)
        return model(prepared)

    make = build.part("task", {**task, "data": str(data)})
    assert check_task(make, tokenizer=build.part("tokenizer", tokenizer), model=seeded)
