"""The configuration of a SpikeDecoder: its sizes and components."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sj_lang_language.models.common import REPEATED, Attention, Embedding, Neuron, Norm, SpikingConfig


@strict
class SpikeDecoderConfig(SpikingConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and components of a SpikeDecoder."""

    model_type = "sj-spike-decoder"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012  # transformers reads a list here
    meaning = ("coding", "timesteps", "twin")
    causal: ClassVar[str] = "the model predicts the next token"
    along_tokens: ClassVar[dict[str, str]] = {
        "causal": "the model predicts the next token, and its neurons run along the tokens",
        "carries_state": "cached generation carries the neurons' state from token to token",
        "any_length": "texts have any length",
    }

    #: V, tokens; fixed by the data
    vocab_size: int = 256
    #: the longest text, in tokens; fixed by the data
    max_position_embeddings: int = 256
    #: D, channels of the stream
    hidden_size: int = 128
    #: blocks
    num_hidden_layers: int = 4
    #: must divide D
    num_attention_heads: int = 4
    #: width of the MLP over D (16 in the paper)
    mlp_ratio: int = 4
    #: "individual": the token axis is the time axis; "repeat": each token enters `timesteps` times
    coding: Literal["individual", "repeat"] = "individual"
    #: T of repeat coding
    timesteps: int = 4
    #: None: `dsn`; with repeat coding `lif` with tau 2, threshold 1, hard reset and an input that
    #: is not halved
    neuron: Neuron | None = None
    embedding: Embedding = "learned_sum"
    attention: Attention = "ssa"
    norm: Norm = "layer"
    #: the size-matched ANN, with softmax attention, GELU and a float embedding in the place of
    #: spikes; all parameters outside the neurons have the same names and shapes
    twin: bool = False
    #: probability, on the output of each branch
    dropout: float | int = 0.0
    #: what the gain of the normalization at the end of each branch starts with (ours); below 1 the
    #: stream stays where the neurons' surrogates see it
    branch_gain: float | int = 1.0
    #: normalize the float stream in front of the neurons of each branch and of the head (ours)
    input_norm: bool = False
    #: normalize what attention brings in front of its neurons (ours): its sum grows with the text
    attended_norm: bool = False
    #: the keys of attention are of the token before (ours), so that a query finds what followed an
    #: earlier token of its kind
    delayed_keys: bool = False
    #: deviation of the normal distribution from which Linear layers and embedding tables are drawn
    initializer_range: float | int = 0.05
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self, **others: Any) -> None:
        if self.neuron is None:
            self.neuron = dict(REPEATED) if self.coding == "repeat" else "dsn"
        sizes = ("vocab_size", "max_position_embeddings", "num_hidden_layers", "mlp_ratio")
        self.complete("spike_decoder", others, sizes)
        super().__post_init__(**others)
