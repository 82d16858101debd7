"""The configuration of an SNN-BERT: its sizes and components."""

from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sj_lang.component import schema
from sj_lang.errors import UserError, choices
from sj_lang_language.models.common import REPEATED, Attention, Embedding, Neuron, Norm, SpikingConfig, component

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
# R, BPSN's own default, takes from a token what its whole neighbourhood shares, and that is what
# attention brings.
INDIVIDUAL = {"type": "bpsn", "variant": "G"}


@strict
class SNNBertConfig(SpikingConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and components of an SNN-BERT; the first two groups have BERT's names and meanings."""

    #: the name of this architecture in config.json, by which transformers' Auto classes find it
    model_type = "sj-snn-bert"
    #: outputs that transformers' Trainer leaves out when it predicts
    keys_to_ignore_at_inference = ["hidden_states"]  # noqa: RUF012  # a list is read
    #: architectures whose checkpoints `init_from` accepts
    takes_weights_of = ("bert",)
    #: fields that change what the same weights compute
    meaning = ("coding", "timesteps", "residual", "scaled", "gelu", "hidden_act", "pooling", "twin", "layer_norm_eps")

    # Fixed by the data, as the labels are.

    #: V, the number of tokens
    vocab_size: int = 30522
    #: the longest text, in tokens
    max_position_embeddings: int = 512
    #: the number of segments
    type_vocab_size: int = 2
    #: the token that pads a batch
    pad_token_id: int | None = 0
    #: the token that begins a text; None: the tokenizer has none
    bos_token_id: int | None = None
    #: the token that ends a text; None: the tokenizer has none
    eos_token_id: int | None = None

    # BERT's.

    #: D, channels of the stream
    hidden_size: int = 128
    #: the number of layers, each with attention and a feed-forward part
    num_hidden_layers: int = 2
    #: the number of attention heads, which must divide D
    num_attention_heads: int = 2
    #: width of the feed-forward part; None: 4 D
    intermediate_size: int | None = None
    #: probability of dropout on the embeddings and on what each Linear adds to the stream
    hidden_dropout_prob: float | int = 0.1
    #: probability of dropout on softmax's weights
    attention_probs_dropout_prob: float | int = 0.1
    #: probability of dropout before the classifier; None: hidden_dropout_prob
    classifier_dropout: float | int | None = None
    #: deviation of the normal distribution from which Linear layers and tables are drawn. None: .02
    #: as in BERT, except for the Linear layers that spikes enter (ours): 1 / sqrt(.15 n) for n
    #: inputs that fire at a rate of .15, so that they give currents of unit deviation. At .02
    #: hardly any neuron after them ever fires
    initializer_range: float | int | None = None
    #: what the embedding's and the heads' LayerNorm adds to the variance
    layer_norm_eps: float | int = 1e-5
    #: the masked-LM head predicts with the table of tokens
    tie_word_embeddings: bool = True

    # SNN-BERT's own.

    #: in training, if labels are given, only the logits of the M scored tokens are computed,
    #: `[M, V]`: loss and gradients are the same, at 15 % masked tokens for a seventh of the head's
    #: cost
    sparse_prediction: bool = False
    #: "individual": the token axis is the time axis, each token is computed once; "repeat": each
    #: token enters `timesteps` times
    coding: Literal["individual", "repeat"] = "individual"
    #: T of repeat coding: how often each token enters
    timesteps: int = 4
    #: the neurons. None: `bpsn`, variant G (ours: R learns pairs of texts worse); with repeat
    #: coding `lif` with tau 2, threshold 1, hard reset and an input that is not halved
    neuron: Neuron | None = None
    #: how token ids become currents
    embedding: Embedding = "bert_sum"
    #: how tokens see each other
    attention: Attention = "softmax"
    #: the normalization after each residual connection; None: `layer` with layer_norm_eps
    norm: Norm | None = None
    #: what a layer adds to the output of its branches: "float", the stream itself, as in BERT;
    #: "spikes", those that went into the branch
    residual: Literal["float", "spikes"] = "float"
    #: spikes stand for values, a s + b with a scale and a shift for each channel (ours), for
    #: weights that come from an ANN. Scales and shifts are learned, and are in the weights of the
    #: Linear layers that follow (`fold` puts them there for good)
    scaled: bool = False
    #: the feed-forward part has BERT's GELU before its inner neurons
    gelu: bool = True
    #: what stands for the text: "cls", its first token; "mean" or "max" over its tokens
    pooling: Literal["cls", "mean", "max"] = "cls"
    #: the size-matched ANN, which is BERT: no neurons, softmax attention, GELU; all parameters
    #: outside the neurons have the same names and shapes
    twin: bool = False

    def __post_init__(self, **others: Any) -> None:
        if self.neuron is None:
            self.neuron = dict(REPEATED if self.coding == "repeat" else INDIVIDUAL)
        if self.norm is None:
            self.norm = {"type": "layer", "eps": self.layer_norm_eps}
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        sizes = ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_hidden_layers", "intermediate_size")
        self.complete("snn_bert", others, sizes)
        attention = component(self, "attention")
        if not {"causal", "core"} <= set(schema.arguments("attention", attention.target)):
            raise UserError(
                f"snn_bert: attention '{attention.name}' does not take `causal` and `core`, so it cannot read a text "
                "as a whole; derive it from sj_lang_language.attention.self_attention.SelfAttention"
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
    def width_inside(self) -> int:
        """`intermediate_size`, which is never None once the config is made."""
        assert self.intermediate_size is not None
        return self.intermediate_size

    @property
    def hidden_act(self) -> str:
        """BERT's name for what `gelu` says, to compare with the checkpoint of one."""
        return "gelu" if self.gelu or self.twin else "none"
