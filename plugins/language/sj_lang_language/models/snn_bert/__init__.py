"""SNN-BERT: BERT with spiking neurons, whose time axis is the token axis.

A reconstruction of "SNN-BERT", Su et al., Neural Networks 180:106630 (2024), from what its abstract
states: no code and no equations are public. `config`: its sizes and components; `encoder`: what it
computes; `heads` and `answers`: what it is used for.
"""

from sj_lang_language.models.snn_bert.answers import SNNBertForMultipleChoice, SNNBertForQuestionAnswering
from sj_lang_language.models.snn_bert.config import SNNBertConfig
from sj_lang_language.models.snn_bert.encoder import SNNBertModel, SNNBertPreTrainedModel
from sj_lang_language.models.snn_bert.heads import (
    SNNBertForMaskedLM,
    SNNBertForPreTraining,
    SNNBertForSequenceClassification,
    SNNBertForTokenClassification,
)

__all__ = [
    "SNNBertConfig",
    "SNNBertForMaskedLM",
    "SNNBertForMultipleChoice",
    "SNNBertForPreTraining",
    "SNNBertForQuestionAnswering",
    "SNNBertForSequenceClassification",
    "SNNBertForTokenClassification",
    "SNNBertModel",
    "SNNBertPreTrainedModel",
]
