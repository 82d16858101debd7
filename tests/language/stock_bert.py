"""A tiny BERT of transformers, offered to recipes like a model of a plugin,
beside this distribution's components.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sj_lang_language.plugin
from huggingface_hub.dataclasses import strict

from sj_lang.hf import shield
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.plugins import Plugin, Registry, use

shield()

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
)
from transformers.modeling_outputs import MaskedLMOutput  # noqa: E402


@strict
class StockConfig(BertConfig):
    model_type = "sj-stock-bert-test"
    vocab_size: int = 30522
    hidden_size: int = 16
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 24
    initializer_range: float = 0.1
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1


class StockForMaskedLM(BertForMaskedLM):
    config_class = StockConfig

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        """The stock one does not divide its loss by num_items_in_batch."""
        items = kwargs.pop("num_items_in_batch", None)
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        loss = None
        if labels is not None:
            loss = self.loss_function(out.logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=items)
        return MaskedLMOutput(loss=loss, logits=out.logits, hidden_states=out.hidden_states)


class StockForPreTraining(BertForPreTraining):
    config_class = StockConfig
    accepts_loss_kwargs = False


class StockForSequenceClassification(BertForSequenceClassification):
    config_class = StockConfig
    accepts_loss_kwargs = False


AutoConfig.register("sj-stock-bert-test", StockConfig)
AutoModelForMaskedLM.register(StockConfig, StockForMaskedLM)
AutoModelForPreTraining.register(StockConfig, StockForPreTraining)
AutoModelForSequenceClassification.register(StockConfig, StockForSequenceClassification)


class Offers:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        register.model("stock", f"{__name__}:StockConfig", summary="for tests")


@contextmanager
def offered() -> Iterator[Registry]:
    """What recipes know: this distribution's components and the tiny BERT."""
    fresh = Registry()
    fresh.add(sj_lang_language.plugin, Plugin("language", "sj_lang_language.plugin", "sj-lang-language", "0"))
    fresh.add(Offers(), Plugin("stock", __name__, "stock-test", "0"))
    with use(fresh):
        yield fresh


RECIPE = """\
recipe: 1
name: stock/test
task: {type: masked_lm, data: DATA, length: 16, split: [0.8, 0.1, 0.1]}
tokenizer: {type: wordpiece, vocab_size: 120}
model: stock
train:
  max_steps: 12
  per_device_train_batch_size: 8
  learning_rate: 0.01
  logging_steps: 4
  eval_steps: 4
  disable_tqdm: true
"""


def write_recipe(folder: Path, data: Path, more: str = "") -> str:
    path = folder / "stock.yaml"
    path.write_text(RECIPE.replace("DATA", str(data)) + more)
    return str(path)
