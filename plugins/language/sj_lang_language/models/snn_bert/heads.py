"""What SNN-BERT is used for. Heads are floats, with the names and shapes of BERT's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
)
from transformers import initialization as init
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput, BertPredictionHeadTransform
from transformers.utils import ModelOutput, can_return_tuple

from sj_lang.hf.models import register
from sj_lang_language.models.snn_bert.config import SNNBertConfig
from sj_lang_language.models.snn_bert.encoder import SNNBertModel, SNNBertPreTrainedModel


class _Predictions(nn.Module):
    """The logits of the tokens: Linear(LayerNorm(GELU(Linear(x))))."""

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.transform = BertPredictionHeadTransform(BertConfig(hidden_size=width, layer_norm_eps=eps))
        self.decoder = nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def reset_parameters(self) -> None:
        init.zeros_(self.bias)

    @torch.no_grad()
    def resize(self, tokens: int) -> None:
        """The bias for another number of tokens."""
        if tokens != len(self.bias):
            bias = pad(self.bias, (0, tokens - len(self.bias)))
            self.bias = nn.Parameter(bias, requires_grad=self.bias.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(x))
        return logits + self.bias


class _PreTrainingHeads(nn.Module):
    """Logits of the tokens, and of whether the second sentence follows the first."""

    def __init__(self, config: SNNBertConfig, *, next_sentence: bool) -> None:
        super().__init__()
        self.predictions = _Predictions(config)
        if next_sentence:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


class _OneHead:
    """Mixed into a model with one head, which gives `predict` and `loss`."""

    accepts_loss_kwargs = True
    output_class: type[ModelOutput]
    bert: SNNBertModel
    loss_function: Callable[..., Tensor]
    #: (what `bert` returns, labels) -> logits, and the labels that they answer to
    predict: Callable[[Any, Tensor | None], tuple[Tensor, Tensor | None]]
    #: (logits, labels, what divides the summed loss or None for the mean)
    loss: Callable[[Tensor, Tensor, Tensor | int | None], Tensor]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> ModelOutput:
        """Inputs as for `SNNBertModel`; labels and logits as the class says.

        num_items_in_batch: divides the summed loss, for exact gradient accumulation.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_hidden_states)
        encoded = self.bert(*inputs, return_dict=True, **more)
        logits, labels = self.predict(encoded, labels)
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch)
        return self.output_class(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


class _WithTokenLogits(SNNBertPreTrainedModel):
    """A model with `cls.predictions`."""

    next_sentence: bool

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__(config)
        self.bert = SNNBertModel(config, add_pooling_layer=self.next_sentence)
        self.cls = _PreTrainingHeads(config, next_sentence=self.next_sentence)
        self.post_init()

    def post_init(self) -> None:
        table = next(name for name, module in self.named_modules() if module is self.get_input_embeddings())
        self._tied_weights_keys = {"cls.predictions.decoder.weight": f"{table}.weight"}
        super().post_init()

    def predict(self, encoded: Any, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, L, V]`, and the labels; or both of scored tokens only, `[M, V]`, `[M]`."""
        x = encoded.last_hidden_state
        if labels is None or not (self.training and self.config.sparse_prediction):
            return self.cls.predictions(x), labels
        at = labels != -100
        return self.cls.predictions(x[at]), labels[at]

    def get_output_embeddings(self) -> nn.Module:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.cls.predictions.decoder = value

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize as transformers does, and the bias of the logits too, 0 for a new token."""
        table: nn.Embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.cls.predictions.resize(len(table.weight))
        return table


class SNNBertForMaskedLM(_OneHead, _WithTokenLogits):
    """SNN-BERT that predicts masked tokens: logits `[B, L, V]` of the token at each place.

    labels: `[B, L]`, -100 is not scored. The loss is in nats per scored token.
    """

    output_class = MaskedLMOutput
    next_sentence = False

    def loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        vocab_size = self.config.vocab_size
        return self.loss_function(logits, labels, vocab_size=vocab_size, num_items_in_batch=items)


class SNNBertForPreTraining(_WithTokenLogits):
    """SNN-BERT with both heads of BERT's pre-training: masked tokens and next sentence."""

    accepts_loss_kwargs = True
    next_sentence = True

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> BertForPreTrainingOutput:
        """Logits `[B, L, V]` of tokens and `[B, 2]` of pairs; inputs as for `SNNBertModel`.

        labels: `[B, L]`, -100 is not scored. next_sentence_label: `[B]`, 0: the second sentence
        follows the first. The loss is the sum of the means of what is given, in nats.

        num_items_in_batch: scored tokens in all micro-batches of a step; divides their summed loss,
        for exact gradient accumulation. The mean of the pairs counts by the micro-batch's share of
        the scored tokens, which is exact if all micro-batches have equally many.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_hidden_states)
        encoded = self.bert(*inputs, return_dict=True, **more)
        logits, labels = self.predict(encoded, labels)
        follows = self.cls.seq_relationship(encoded.pooler_output)
        losses = []
        share: Tensor | float = 1.0
        if labels is not None:
            scored = (labels != -100).sum()
            items = scored if num_items_in_batch is None else num_items_in_batch
            losses.append(cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum") / items)
            share = 1.0 if num_items_in_batch is None else scored / num_items_in_batch
        if next_sentence_label is not None:
            losses.append(cross_entropy(follows.float(), next_sentence_label.flatten()) * share)
        return BertForPreTrainingOutput(
            loss=sum(losses[1:], losses[0]) if losses else None,
            prediction_logits=logits,
            seq_relationship_logits=follows,
            hidden_states=encoded.hidden_states,
        )


class _WithClassifier(SNNBertPreTrainedModel):
    """A model with `classifier`, on the vector of the text or on those of its tokens."""

    of_the_text: bool

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = SNNBertModel(config, add_pooling_layer=self.of_the_text)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def predict(self, encoded: Any, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = encoded.pooler_output if self.of_the_text else encoded.last_hidden_state
        return self.classifier(self.dropout(x)), labels


class SNNBertForSequenceClassification(_OneHead, _WithClassifier):
    """SNN-BERT that classifies a text or scores it (`problem_type` "regression", or one label).

    Logits `[B, labels]`. labels: `[B]` classes, or `[B]` or `[B, labels]` numbers. The loss follows
    `config.problem_type`, as in transformers: cross-entropy (nats), mean squared error, or binary
    cross-entropy.
    """

    accepts_loss_kwargs = False
    output_class = SequenceClassifierOutput
    of_the_text = True

    def loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        return self.loss_function(labels, logits.float(), self.config, num_items_in_batch=items)


class SNNBertForTokenClassification(_OneHead, _WithClassifier):
    """SNN-BERT that classifies each token, `[B, L, labels]`; labels as in `SNNBertForMaskedLM`."""

    output_class = TokenClassifierOutput
    of_the_text = False

    def loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        return self.loss_function(logits, labels, self.config, num_items_in_batch=items)


register(
    SNNBertConfig,
    (AutoModel, SNNBertModel),
    (AutoModelForMaskedLM, SNNBertForMaskedLM),
    (AutoModelForPreTraining, SNNBertForPreTraining),
    (AutoModelForSequenceClassification, SNNBertForSequenceClassification),
    (AutoModelForTokenClassification, SNNBertForTokenClassification),
)
