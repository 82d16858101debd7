"""What SNN-BERT is used for. Heads are floats, with the names and shapes of BERT's."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers import initialization as init
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput
from transformers.utils import can_return_tuple

from sj_lang_language.models.common import register
from sj_lang_language.models.snn_bert.config import SNNBertConfig
from sj_lang_language.models.snn_bert.encoder import SNNBertModel, SNNBertPreTrainedModel


class _Transform(nn.Module):
    """LayerNorm(GELU(Linear(x)))."""

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.GELU()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.LayerNorm(self.activation(self.dense(x)))
        return y


class _Predictions(nn.Module):
    """The logits of the tokens, Linear(transform(x)), as a rule with the table of tokens for weights."""

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__()
        self.transform = _Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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

    def _predict(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, L, V]` out of `[B, L, D]`, and the labels; or both of scored tokens only, `[M, V]`, `[M]`."""
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
        """As transformers does it; and the bias of the logits, which is 0 for a new token."""
        table: nn.Embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.cls.predictions.resize(len(table.weight))
        return table


class SNNBertForMaskedLM(_WithTokenLogits):
    """SNN-BERT that predicts masked tokens."""

    accepts_loss_kwargs = True
    next_sentence = False

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> MaskedLMOutput:
        """Logits `[B, L, V]` of the token at each place; inputs as for `SNNBertModel`.

        labels: `[B, L]`, -100 is not scored. num_items_in_batch: divides the summed loss, for exact
        gradient accumulation. The loss is in nats per scored token.
        """
        encoded = self.bert(input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict=True)
        logits, labels = self._predict(encoded.last_hidden_state, labels)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


class SNNBertForPreTraining(_WithTokenLogits):
    """SNN-BERT with both heads of BERT's pre-training: masked tokens, and whether the second sentence follows."""

    accepts_loss_kwargs = True
    next_sentence = True

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> BertForPreTrainingOutput:
        """Prediction logits `[B, L, V]` and next-sentence logits `[B, 2]`; inputs as for `SNNBertModel`.

        labels: `[B, L]`, -100 is not scored. next_sentence_label: `[B]`, 0: the second sentence
        follows the first. The loss is the sum of the means of what is given, in nats.

        num_items_in_batch: scored tokens in all micro-batches of a step. It divides their summed
        loss, which makes gradient accumulation exact for them. How many pairs there are it does not
        say: their mean counts by the micro-batch's share of the scored tokens, which is exact as
        far as micro-batches have equally many.
        """
        encoded = self.bert(input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict=True)
        logits, labels = self._predict(encoded.last_hidden_state, labels)
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


class SNNBertForSequenceClassification(_WithClassifier):
    """SNN-BERT that classifies a text, or gives it a number (`problem_type` "regression", or one label)."""

    accepts_loss_kwargs = False
    of_the_text = True

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits `[B, labels]`; inputs as for `SNNBertModel`.

        labels: `[B]` classes, or `[B]` or `[B, labels]` numbers. The loss follows
        `config.problem_type`, as in transformers: cross-entropy (nats), mean squared error, or
        binary cross-entropy.
        """
        encoded = self.bert(input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits.float(), config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


class SNNBertForTokenClassification(_WithClassifier):
    """SNN-BERT that classifies each token."""

    accepts_loss_kwargs = True
    of_the_text = False

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> TokenClassifierOutput:
        """Logits `[B, L, labels]`; inputs as for `SNNBertModel`; labels and loss as for `SNNBertForMaskedLM`."""
        encoded = self.bert(input_ids, attention_mask, token_type_ids, output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


register(
    SNNBertConfig,
    (AutoModel, SNNBertModel),
    (AutoModelForMaskedLM, SNNBertForMaskedLM),
    (AutoModelForPreTraining, SNNBertForPreTraining),
    (AutoModelForSequenceClassification, SNNBertForSequenceClassification),
    (AutoModelForTokenClassification, SNNBertForTokenClassification),
)
