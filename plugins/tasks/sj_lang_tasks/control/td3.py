"""TD3 of stable-baselines3 (Fujimoto et al. 2018, arXiv 1802.09477), the actor a network of ours.

What is theirs: environments' wrappers, replay buffer, critics, exploration, updates. Ours: the
actor, and a state that it carries from action to action, which follows the observation in the
replay buffer; the critics do not see it.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from sj_lang.task import Log


class Actor(BasePolicy):  # type: ignore[misc]  # stable-baselines3 may be missing
    """A policy of stable-baselines3 that asks a network for its actions."""

    def __init__(self, *args: Any, network: Any, **kwargs: Any) -> None:
        super().__init__(*args, squash_output=True, **kwargs)
        self.network = network

    def forward(self, observations: Tensor) -> Tensor:
        actions: Tensor = self.network(observations.float()).logits
        return actions

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        return self.forward(observation)


class WithoutState(BaseFeaturesExtractor):  # type: ignore[misc]
    """What the critics see: the observation without the state after it."""

    def __init__(self, observation_space: Any, size: int) -> None:
        super().__init__(observation_space, size)

    def forward(self, observations: Tensor) -> Tensor:
        return observations[:, : self.features_dim]


def policy_of(network: Any) -> type[TD3Policy]:
    """A policy class whose actor is the network, and whose target actor a copy of it."""
    networks: Iterator[Any] = iter((network, deepcopy(network)))

    class NetworkPolicy(TD3Policy):  # type: ignore[misc]
        def make_actor(self, features_extractor: Any = None) -> Actor:
            actor = Actor(self.observation_space, self.action_space, network=next(networks))
            actor.to(self.device)
            return actor

    return NetworkPolicy


class WithState(gymnasium.Wrapper):  # type: ignore[misc]
    """Observations with the actor's state after them; it moves on with each observation that was
    acted on, whatever the action was."""

    def __init__(self, environment: Any, network: Any) -> None:
        super().__init__(environment)
        self.network = network
        space = environment.observation_space
        edge = np.full(network.state_size, np.inf, np.float32)
        low, high = (np.concatenate([one, sign * edge]) for one, sign in ((space.low, -1), (space.high, 1)))
        self.observation_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self._last = self._state = np.zeros(0, np.float32)

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        self._state = np.zeros(self.network.state_size, np.float32)
        self._last = self._with_state(observation)
        return self._last, info

    def step(self, action: Any) -> Any:
        with torch.no_grad():
            device = self.network.device
            _, state = self.network.advance(torch.from_numpy(self._last)[None].to(device))
        self._state = state[0].cpu().numpy()
        observation, *rest = self.env.step(action)
        self._last = self._with_state(observation)
        return self._last, *rest

    def _with_state(self, observation: Any) -> Any:
        return np.concatenate([observation, self._state]).astype(np.float32)


class Progress(BaseCallback):  # type: ignore[misc]
    """Hands the figures of each `every` steps to the run, which may raise at any step."""

    def __init__(self, log: Log, every: int) -> None:
        super().__init__()
        self.log, self.every = log, every

    def _on_step(self) -> bool:
        figures: dict[str, float] = {}
        if self.num_timesteps % self.every == 0:
            episodes = [info["r"] for info in self.model.ep_info_buffer]
            losses = self.model.logger.name_to_value
            figures = {name: float(losses[f"train/{name}"]) for name in ("actor_loss", "critic_loss")}
            figures = {name: value for name, value in figures.items() if value}
            if episodes:
                figures["return"] = float(np.mean(episodes[-10:]))
        self.log(self.num_timesteps, figures)
        return True


def train(
    network: Any,
    environment: Any,
    log: Log,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    every: int,
    seed: int,
    warmup: int,
    noise: float,
    gamma: float,
    buffer: int,
    critic: list[int],
) -> None:
    """Train the network in place."""
    size = environment.observation_space.shape[0]
    if network.state_size:
        environment = WithState(environment, network)
    actions = environment.action_space.shape[0]
    learner = TD3(
        policy_of(network),
        environment,
        learning_rate=learning_rate,
        buffer_size=min(buffer, steps),
        learning_starts=warmup,
        batch_size=batch_size,
        gamma=gamma,
        action_noise=NormalActionNoise(np.zeros(actions), np.full(actions, noise)),
        policy_kwargs={
            "net_arch": {"pi": [], "qf": critic},
            "features_extractor_class": WithoutState,
            "features_extractor_kwargs": {"size": size},
        },
        seed=seed,
        device=network.device,
    )
    learner.learn(steps, callback=Progress(log, every), log_interval=None)
