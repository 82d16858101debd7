"""Of what an SNN-BERT is built."""

from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sj_lang import build
from sj_lang.component import schema
from sj_lang.component.schema import Part
from sj_lang.errors import UserError, choices
from sj_lang_language.models.options import REPEATED, Coding, refuse_unknown, require_heads, require_positive, write_out

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
# R, BPSN's own default, takes from a token what its whole neighbourhood shares, and that is what attention brings.
INDIVIDUAL = {"type": "bpsn", "variant": "G"}


@strict
class SNNBertConfig(Coding, PreTrainedConfig):
    """Sizes and components of an SNN-BERT; the first group has BERT's names and meanings.

    vocab_size: V. max_position_embeddings: the longest text, in tokens. type_vocab_size: segments. pad_token_id: of the
    tokenizer. (These four are fixed by the data, as are the labels.)
    hidden_size: D. num_hidden_layers: layers. num_attention_heads: must divide D. intermediate_size: width of the
    feed-forward part; None: 4 D.
    hidden_dropout_prob: on embeddings and on what each Linear adds to the stream. attention_probs_dropout_prob: on
    softmax's weights. classifier_dropout: before the classifier; None: hidden_dropout_prob.
    initializer_range: deviation of the normal distribution from which Linear layers and tables are drawn. None: .02 as
    in BERT, but for the Linear layers that spikes enter (ours): 1 / sqrt(.15 n) for n inputs that fire at a rate of
    .15, so that they give currents of unit deviation. At .02 hardly a neuron behind them ever fires.
    layer_norm_eps: of the embedding's and the heads' LayerNorm.
    tie_word_embeddings: the masked-LM head predicts with the table of tokens.
    sparse_prediction: in training, where labels are given, the logits of the M scored tokens alone are computed,
        `[M, V]`: loss and gradients are the same, at 15 % masked tokens for a seventh of the head's cost.

    coding: "individual", the token axis is the time axis, each token is computed once; "repeat", each token enters
    `timesteps` times. timesteps: T of repeat coding. neuron: None is `bpsn`, variant G (ours: R learns pairs of texts
    worse), with repeat coding `lif` with tau 2, threshold 1, hard reset and an input that is not halved.
    embedding, attention, norm: the other components; norm None is `layer` with layer_norm_eps.
    residual: what a layer adds to the output of its branches: "float", the stream itself, as in BERT; "spikes", those
    that went into the branch.
    gelu: the feed-forward part has BERT's GELU before its inner neurons.
    pooling: what stands for the text: "cls", its first token; "mean" or "max" over its tokens.
    twin: the size-matched ANN, which is BERT: no neurons, softmax attention, GELU; all parameters outside the neurons
    have the same names and shapes.
    """

    model_type = "sj-snn-bert"
    keys_to_ignore_at_inference = ["hidden_states"]  # noqa: RUF012  # transformers reads a list here
    takes_weights_of = ("bert",)
    meaning = ("coding", "timesteps", "residual", "gelu", "hidden_act", "pooling", "twin", "layer_norm_eps")

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int | None = None
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    classifier_dropout: float | int | None = None
    initializer_range: float | int | None = None
    layer_norm_eps: float | int = 1e-5
    tie_word_embeddings: bool = True
    sparse_prediction: bool = False

    coding: Literal["individual", "repeat"] = "individual"
    timesteps: int = 4
    neuron: Part["neuron"] | None = None
    embedding: Part["embedding"] = "bert_sum"
    attention: Part["attention"] = "softmax"
    norm: Part["norm"] | None = None
    residual: Literal["float", "spikes"] = "float"
    gelu: bool = True
    pooling: Literal["cls", "mean", "max"] = "cls"
    twin: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self, **others: Any) -> None:
        refuse_unknown(self, "snn_bert", others)
        if self.neuron is None:
            self.neuron = dict(REPEATED if self.coding == "repeat" else INDIVIDUAL)
        if self.norm is None:
            self.norm = {"type": "layer", "eps": self.layer_norm_eps}
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        write_out(self, ("neuron", "embedding", "attention", "norm"))
        sizes = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_size", "num_hidden_layers")
        require_positive(self, "snn_bert", (*sizes, "num_attention_heads", "intermediate_size", "timesteps"))
        require_heads(self, "snn_bert")
        attention = build.part("attention", self.attention)
        if not {"causal", "core"} <= set(schema.arguments("attention", attention.target)):
            raise UserError(
                f"snn_bert: attention '{attention.name}' takes no `causal` and `core`, so it cannot read a text as a "
                "whole; derive it from sj_lang_language.attention.self_attention.SelfAttention"
            )
        if self.problem_type not in (None, *PROBLEMS):
            raise UserError(f"snn_bert: problem_type '{self.problem_type}'; {choices(self.problem_type, PROBLEMS)}")
        super().__post_init__(**others)

    @classmethod
    def fields_of(cls, bert: Mapping[str, Any]) -> dict[str, Any]:
        """What the config of a BERT decides here beside the sizes; `pooling` if
        sentence-transformers stored it."""
        options = {name: bert[name] for name in ("layer_norm_eps", "pooling") if name in bert}
        gelu = {"gelu": True} if bert["hidden_act"] == "gelu" else {}
        return {"embedding": "bert_sum", **options, **gelu}

    @property
    def hidden_act(self) -> str:
        """BERT's name for what `gelu` says, to compare with the checkpoint of one."""
        return "gelu" if self.gelu or self.twin else "none"

    def requires(self, pads: bool) -> dict[str, dict[str, str]]:
        """What the components must be able to do, and why; pads: batches of the task may hold padding."""
        if not self.runs_along_tokens:
            return {}
        needed = {"any_length": "texts have any length"}
        if pads:
            needed["takes_mask"] = "batches hold padding"
        return {"neuron": needed}
