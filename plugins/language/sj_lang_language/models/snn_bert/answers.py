"""SNN-BERT that answers: the span of a text, or one of several choices. Heads are BERT's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMultipleChoice, AutoModelForQuestionAnswering
from transformers.modeling_outputs import MultipleChoiceModelOutput, QuestionAnsweringModelOutput
from transformers.utils import can_return_tuple

from sj_lang.hf.models import register
from sj_lang_language.models.snn_bert.config import SNNBertConfig
from sj_lang_language.models.snn_bert.encoder import SNNBertModel, SNNBertPreTrainedModel


class SNNBertForQuestionAnswering(SNNBertPreTrainedModel):
    """SNN-BERT that finds the answer to a question in a text: where it starts and where it ends."""

    accepts_loss_kwargs = False

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__(config)
        self.bert = SNNBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **more: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of the first and of the last token of the answer, `[B, L]` each, least at padding.

        Inputs as for `SNNBertModel`. start_positions, end_positions: `[B]`; one beyond the text is
        not scored. The loss is the mean of the two cross-entropies, in nats.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_hidden_states)
        encoded = self.bert(*inputs, return_dict=True, **more)
        logits = self.qa_outputs(encoded.last_hidden_state)
        if attention_mask is not None:
            logits = logits.masked_fill(attention_mask[..., None] == 0, torch.finfo(logits.dtype).min)
        start, end = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start.float(), end.float(), start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=encoded.hidden_states
        )


class SNNBertForMultipleChoice(SNNBertPreTrainedModel):
    """SNN-BERT that chooses one of several texts, such as the answers to one question."""

    accepts_loss_kwargs = False

    def __init__(self, config: SNNBertConfig) -> None:
        super().__init__(config)
        self.bert = SNNBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

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
        **more: Any,
    ) -> MultipleChoiceModelOutput:
        """Logits `[B, choices]`.

        Inputs as for `SNNBertModel`, with the choices on axis 1: `[B, choices, L]`. labels: `[B]`,
        the right choice; the loss is the cross-entropy, in nats. hidden_states: those of all texts.
        """
        shape = next((x.shape for x in (input_ids, inputs_embeds) if x is not None), (0, 1))
        input_ids, attention_mask, token_type_ids, inputs_embeds = (
            None if x is None else x.flatten(0, 1) for x in (input_ids, attention_mask, token_type_ids, inputs_embeds)
        )
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_hidden_states)
        encoded = self.bert(*inputs, return_dict=True, **more)
        logits = self.classifier(self.dropout(encoded.pooler_output)).view(-1, shape[1])
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


register(
    SNNBertConfig,
    (AutoModelForQuestionAnswering, SNNBertForQuestionAnswering),
    (AutoModelForMultipleChoice, SNNBertForMultipleChoice),
)
