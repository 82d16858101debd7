"""The configuration of a SpikeDecoder: its sizes and components."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sj_lang.errors import UserError
from sj_lang_language.models.common import REPEATED, Attention, Embedding, Neuron, Norm, SpikingConfig


@strict
class SpikeDecoderConfig(SpikingConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and components of a SpikeDecoder."""

    #: the name of this architecture in config.json, by which transformers' Auto classes find it
    model_type = "sj-spike-decoder"
    #: outputs that transformers' Trainer leaves out when it predicts
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012  # transformers reads a list here
    #: fields that change what the same weights compute
    meaning: ClassVar[tuple[str, ...]] = (
        *("coding", "timesteps", "twin", "degree", "residual", "first_block_fires", "join", "fires_joined"),
        *("delayed_keys", "fires"),
    )
    #: why neurons and attention must be causal
    causal: ClassVar[str] = "the model predicts the next token"
    #: what a neuron must be able to do with individual coding, and why
    along_tokens: ClassVar[dict[str, str]] = {
        "causal": "the model predicts the next token, and its neurons run along the tokens",
        "carries_state": "cached generation carries the neurons' state from token to token",
        "any_length": "texts have any length",
    }
    #: LIF halves its input by default; what spikes of 1 charge then comes near the threshold of 1
    #: and never reaches it: no neuron of the network fires
    presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {"neuron": {"lif": {"decay_input": False}}}

    #: V, the number of tokens; fixed by the data
    vocab_size: int = 256
    #: the longest text, in tokens; fixed by the data
    max_position_embeddings: int = 256
    #: D, channels of the stream
    hidden_size: int = 128
    #: the number of blocks
    num_hidden_layers: int = 4
    #: the number of attention heads, which must divide D
    num_attention_heads: int = 4
    #: width of the MLP over D (16 in the paper)
    mlp_ratio: int = 4
    #: "individual": the token axis is the time axis; "repeat": each token enters `timesteps` times
    coding: Literal["individual", "repeat"] = "individual"
    #: T of repeat coding: how often each token enters
    timesteps: int = 4
    #: the neurons. None: `dsn`; with repeat coding `lif` with tau 2, threshold 1, hard reset and an
    #: input that is not halved
    neuron: Neuron | None = None
    #: how token ids become currents or spikes
    embedding: Embedding = "learned_sum"
    #: how tokens see earlier ones
    attention: Attention = "ssa"
    #: the normalization after each Linear of a block
    norm: Norm = "layer"
    #: the size-matched ANN, with softmax attention, GELU and a float embedding in the place of
    #: spikes; all parameters outside the neurons have the same names and shapes
    twin: bool = False
    #: the norms after Linear layers are absorbed by them; `model.fold()` does it
    folded: bool = False
    #: what is made of spikes: 0 nothing (the ANN), 1 the embedding, 2 attention too, 3 the MLPs
    #: too, 4 what the head reads too
    degree: Literal[0, 1, 2, 3, 4] = 4
    #: where neurons stand on the stream: 0 nowhere, 1 before and after each MLP, so that spikes are
    #: added to spikes, 2 before and after each attention too
    residual: Literal[0, 1, 2] = 0
    #: false: neurons hand on their potentials in the place of spikes (ours), a baseline that has
    #: their dynamics and floats everywhere
    fires: bool = True
    #: neurons after the first block's attention, so that no floats are added to the embedding's
    #: spikes
    first_block_fires: bool = False
    #: what the head reads of the T steps of repeat coding
    join: Literal["average", "accumulate", "concatenate", "final"] = "average"
    #: the head's neurons fire after the steps are joined, not before
    fires_joined: bool = False
    #: probability of dropout on the output of each branch
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
    #: the token that pads a batch; None: the tokenizer has none
    pad_token_id: int | None = None
    #: the token that begins a text; None: the tokenizer has none
    bos_token_id: int | None = None
    #: the token that ends a text, and generation; None: the tokenizer has none
    eos_token_id: int | None = None

    def __post_init__(self, **others: Any) -> None:
        if self.neuron is None:
            self.neuron = dict(REPEATED) if self.coding == "repeat" else "dsn"
        sizes = ("vocab_size", "max_position_embeddings", "num_hidden_layers", "mlp_ratio")
        self.complete("spike_decoder", others, sizes)
        self._refuse_senseless()
        super().__post_init__(**others)

    def is_float(self, degree: int) -> bool:
        """Whether the parts that a degree of spiking turns into spikes are the ANN's."""
        return self.twin or self.degree < degree

    @property
    def repeats(self) -> int | None:
        """T of repeat coding; None if each token is computed once: individual coding, ANNs."""
        return self.timesteps if self.coding == "repeat" and not self.is_float(2) else None

    def _refuse_senseless(self) -> None:
        """UserError for combinations of options that mean nothing.

        A twin ignores what is of neurons, so it may share the options of its spiking model.
        """
        repeat, degree, normed = self.coding == "repeat", self.degree, self.input_norm or self.attended_norm
        faults = [
            (repeat and degree < 2, f"degree {degree} has no neurons that could run along repeated tokens"),
            (
                self.residual > 0 and degree < 3,
                f"residual {self.residual} puts neurons around the MLPs, which are floats at degree {degree}; take "
                "degree 3 or 4",
            ),
            (
                self.first_block_fires and degree < 2,
                f"first_block_fires puts neurons after attention, which is float at degree {degree}; take 2 or more",
            ),
            (
                self.join != "average" and not repeat,
                f"join {self.join} joins the steps of repeat coding; individual coding has one step for each token",
            ),
            (self.fires_joined and not repeat, "fires_joined is of repeat coding, which has steps to join"),
            (
                self.fires_joined and degree < 4,
                f"fires_joined needs a head that reads spikes, and at degree {degree} it reads floats; take degree 4",
            ),
            (not self.fires and degree < 2, f"degree {degree} has no neurons that could fire or not; take 2 or more"),
            (self.folded and normed, "folded leaves no norm, and input_norm and attended_norm cannot be folded"),
        ]
        for is_fault, text in faults:
            if is_fault and not self.twin:
                raise UserError(f"spike_decoder: {text}")
