"""A policy whose neurons are in populations (after Tang et al. 2020, arXiv 2010.09635).

    a_ij = exp(-(o_i - m_ij)^2 / (2 s_i^2))       P receptive fields for each observation
    x    = N(Linear(a)), N(Linear(x)), ...        T times the same a
    y_k  = tanh(Linear(mean over T of p_k))       p_k: the P neurons of action k in N(Linear(x))

m and s are learned. Ours: the first product takes a itself, as in direct coding, and neurons start
with larger weights, as there is no norm. Neurons begin each action at rest, or with `carry_state`
where the last action left them. The network is a function of observation and state: what
`advance` returns as state follows the next observation, `[B, D + S]`, in a replay buffer too.
"""

from dataclasses import field
from typing import Any, ClassVar, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from sj_lang.hf.models import register
from sj_lang_tasks.models.common import NeuronConfig, NeuronLayer, NeuronModel, NeuronPart

GAIN = 3.0  # of the first weights, in 1 / sqrt(inputs)


@strict
class PopulationPolicyConfig(NeuronConfig, PreTrainedConfig):  # type: ignore[misc]
    """Sizes and the neuron of a policy in populations."""

    model_type = "sj-population-policy"
    handed_in: ClassVar[frozenset[str]] = frozenset({"reach", "action_size"})
    meaning = ("carry_state", "twin")

    #: largest size of each observation, for the receptive fields; fixed by the environment
    reach: list[float] = field(default_factory=lambda: [1.0])
    #: how many numbers an action has; fixed by the environment
    action_size: int = 1
    #: width of a hidden layer
    hidden_size: int = 64
    #: the number of hidden layers
    num_hidden_layers: int = 2
    #: P, receptive fields of an observation and neurons of an action
    population: int = 10
    #: T, steps of the neurons for each action
    timesteps: int = 5
    #: neurons go on from action to action; false: each action begins at rest
    carry_state: bool = False
    #: the neurons
    neuron: NeuronPart = "dsn"
    #: the size-matched ANN: ReLU in the place of neurons, and T = 1
    twin: bool = False

    def __post_init__(self, **others: Any) -> None:
        self.complete("action_size", "hidden_size", "num_hidden_layers", "population", "timesteps")
        self.reach = [float(size) for size in self.reach]
        super().__post_init__(**others)

    def requires(self, pads: bool) -> dict[str, dict[str, str]]:
        carries = self.carry_state and not self.twin
        return {"neuron": {"carries_state": "model.carry_state hands it from action to action"}} if carries else {}


class Encoder(nn.Module):
    """Gaussian receptive fields, `[B, D]` to `[B, D P]` in 0..1."""

    def __init__(self, reach: list[float], population: int) -> None:
        super().__init__()
        self.reach = reach
        self.middles = nn.Parameter(torch.empty(len(reach), population))
        self.log_widths = nn.Parameter(torch.empty(len(reach), 1))

    def reset_parameters(self) -> None:
        """Middles evenly over the reach; a width is the distance of two of them."""
        size = torch.tensor(self.reach)[:, None]
        count = self.middles.shape[1]
        init.copy_(self.middles, size * torch.linspace(-1, 1, count))
        init.copy_(self.log_widths, (2 * size / max(count - 1, 1)).log())

    def forward(self, observations: Tensor) -> Tensor:
        distances = (observations[..., None] - self.middles) / self.log_widths.exp()
        return (-distances.square() / 2).exp().flatten(-2)


class PopulationPolicy(NeuronModel):
    """Actions `[B, A]` within -1..1 for observations `[B, D]`, or `[B, D + S]` with states."""

    config_class = PopulationPolicyConfig
    base_model_prefix = ""
    main_input_name = "observations"

    def __init__(self, config: PopulationPolicyConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.reach, config.population)
        width = len(config.reach) * config.population
        widths = [*[config.hidden_size] * config.num_hidden_layers, config.action_size * config.population]
        self.products = nn.ModuleList()
        self.neurons = nn.ModuleList()
        for outputs in widths:
            self.products.append(nn.Linear(width, outputs))
            self.neurons.append(NeuronLayer(config.make_neuron(), outputs))
            width = outputs
        self.decoder = nn.Conv1d(config.action_size, config.action_size, config.population, groups=config.action_size)
        self.carries = config.carry_state and not config.twin
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module in list(self.products):
            limit = GAIN / cast(nn.Linear, module).in_features ** 0.5
            init.uniform_(module.weight, -limit, limit)

    @property
    def state_size(self) -> int:
        """S, numbers of the state of one policy; 0 if it carries none."""
        return len(self._at_rest(1)[0]) if self.carries else 0

    def forward(
        self, observations: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Actions as `logits`. labels `[B, A]`; the loss: mean squared difference."""
        actions, _ = self.advance(observations)
        loss = None if labels is None else nn.functional.mse_loss(actions.float(), labels.float())
        output = SequenceClassifierOutput(loss=loss, logits=actions)
        return output.to_tuple() if return_dict is False else output

    def advance(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The actions, and the states `[B, S]` after them."""
        count = len(self.config.reach)
        x = self.encoder(observations[:, :count]).expand(1 if self.config.twin else self.config.timesteps, -1, -1)
        flat = observations[:, count:] if self.carries else observations[:, :0]
        if self.carries and not flat.shape[1]:
            flat = self._at_rest(len(observations)).to(observations)
        states = []
        for product, neurons in zip(self.products, self._layers(), strict=True):
            currents = product(x)
            if not self.carries:
                x = neurons(currents)
                continue
            state, flat = _unflattened(neurons.node.init_state(currents), flat)
            x, state = neurons.node.functional(currents, state)
            states.append(_flattened(state))
        populations = x.mean(0).unflatten(-1, (-1, self.config.population))
        return self.decoder(populations).squeeze(-1).tanh(), torch.cat(states, 1) if states else flat

    def _layers(self) -> Any:
        return self.neurons  # a ModuleList, whose items torch types as any modules

    def _at_rest(self, count: int) -> Tensor:
        widths = [cast(nn.Linear, product).out_features for product in self.products]
        steps = (torch.zeros(1, count, width) for width in widths)
        states = [_flattened(n.node.init_state(x)) for n, x in zip(self._layers(), steps, strict=True)]
        return torch.cat(states, 1)


def _flattened(state: dict[str, Tensor]) -> Tensor:
    """`[B, S]` of the tensors of a node, whose axis 0 is B."""
    return torch.cat([state[name].flatten(1) for name in sorted(state)], 1)


def _unflattened(like: dict[str, Tensor], flat: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The state of a node from the front of `[B, S]`, and what follows it."""
    state = {}
    for name in sorted(like):
        size = like[name][0].numel()
        state[name] = flat[:, :size].reshape(like[name].shape).to(like[name].dtype)
        flat = flat[:, size:]
    return state, flat


register(PopulationPolicyConfig, (AutoModel, PopulationPolicy))
