"""Learn to act in an environment of gymnasium, by TD3."""

import math
from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sj_lang.errors import UserError
from sj_lang.task import Log, MakeTokenizer, Prepared, Task
from sj_lang_tasks.control import environments

RANDOM_STEPS = 64  # a model is tried with them before its training
TESTED_STEPS = 256  # as many of the played steps are what firing and energy are measured on
TEST_SEED = 10_000  # that of the first episode played at the end; training has the run's seed


class Control(Task):
    """Act so that the return of an episode, the sum of its rewards, is large.

    environment: a name of gymnasium's, with continuous actions.
    episodes: how many the trained policy plays, with the same first states for every seed.
    warmup: steps with random actions before the first update.
    noise: the deviation of the normal noise on actions in training, as a share of their range.
    gamma: discount of a reward that comes a step later.
    buffer: how many steps are kept to learn from.
    critic: widths of the hidden layers of the two critics, which are ANNs.

    `train.max_steps` is the number of steps in the environment, each with one update;
    `train.learning_rate` that of actor and critics; `train.per_device_train_batch_size` the
    transitions of an update. Figures: `return`, the mean over episodes; `return_deviation`;
    `length`, steps of an episode; `loss`, the mean squared difference of the actions that were
    played and those that the network gives again.
    """

    auto_class = "AutoModel"
    causal = False
    pads = False
    tokenizes = False

    def __init__(
        self,
        *,
        environment: str = "Pendulum-v1",
        episodes: int = 10,
        warmup: int = 1000,
        noise: float = 0.1,
        gamma: float = 0.99,
        buffer: int = 1_000_000,
        critic: Sequence[int] = (256, 256),
    ) -> None:
        for name, value in (("episodes", episodes), ("warmup", warmup), ("buffer", buffer)):
            if value < 1:
                raise UserError(f"task.{name} is {value}; expected 1 or more")
        if not 0 <= noise < float("inf"):
            raise UserError(f"task.noise is {noise}; expected 0 or more")
        if not 0 <= gamma <= 1:
            raise UserError(f"task.gamma is {gamma}; expected 0 to 1")
        if not critic or min(critic) < 1:
            raise UserError(f"task.critic is {list(critic)}; expected widths of layers, such as [256, 256]")
        self.environment, self.episodes = environment, episodes
        self.warmup, self.noise, self.gamma, self.buffer = warmup, noise, gamma, buffer
        self.critic = list(critic)

    def prepare(self, tokenizer: MakeTokenizer | None, *, seed: int) -> Prepared:
        """Build the environment and try random actions. seed: of these and of the training."""
        environment = environments.make(self.environment)
        learner = ActorLearner(self, random_steps(environment))
        actions = environment.action_space
        return Prepared(
            train=random_steps(environment),
            validation=None,
            tests={"test": learner.played},
            learner=learner,
            reduce=lambda outputs, labels: (outputs.float() - labels).square().mean(-1),
            metrics=lambda split, reduced, labels: {"loss": float(np.mean(cast(Any, reduced))), **learner.figures},
            label_names=["labels"],
            model={"reach": environments.reach(environment), "action_size": int(actions.shape[0])},
            select="return",
            greater_is_better=True,
            loss="mean squared difference of the actions that were played and those given again",
            fingerprint={"environment": self.environment},
            notes=[
                f"{self.environment}: {environment.observation_space.shape[0]} observations, {actions.shape[0]} actions"
            ],
        )

    def make(self) -> Any:
        return environments.make(self.environment)


class ActedSteps:
    """Items `{"observations": [D + S], "labels": action [A]}`; what they are may change."""

    def __init__(self, observations: NDArray[np.float32], actions: NDArray[np.float32]) -> None:
        self.observations, self.actions = observations, actions

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        return {
            "observations": torch.from_numpy(self.observations[index]),
            "labels": torch.from_numpy(self.actions[index]),
        }


def random_steps(environment: Any) -> ActedSteps:
    """Steps with random actions, the same for every seed."""
    draw = np.random.default_rng(0)
    observation, _ = environment.reset(seed=0)
    seen, acted = [], []
    for _ in range(RANDOM_STEPS):
        action = draw.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        seen.append(np.asarray(observation, np.float32))
        acted.append(action)
        observation, _, ended, cut, _ = environment.step(environments.scaled(action, environment))
        if ended or cut:
            observation, _ = environment.reset()
    return ActedSteps(np.stack(seen), np.stack(acted))


class ActorLearner:
    """Trains a policy by TD3 and lets it play. played: the steps of the last time that it did."""

    reads: Collection[str] = ("max_steps", "learning_rate", "per_device_train_batch_size", "logging_steps")

    def __init__(self, task: Control, played: ActedSteps) -> None:
        self.task, self.played = task, played
        self.figures: dict[str, float] = {}

    def train(self, model: Any, arguments: Any, log: Log) -> None:
        from sj_lang_tasks.control import td3

        task, every = self.task, arguments.logging_steps
        if arguments.max_steps <= task.warmup:
            raise UserError(
                f"train.max_steps is {arguments.max_steps:,}, and the first {task.warmup:,} steps (task.warmup) take "
                "random actions and learn nothing; give more"
            )
        td3.train(
            model,
            task.make(),
            log,
            steps=arguments.max_steps,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.per_device_train_batch_size,
            every=int(every) if every >= 1 else max(1, math.ceil(every * arguments.max_steps)),
            seed=arguments.seed,
            warmup=task.warmup,
            noise=task.noise,
            gamma=task.gamma,
            buffer=task.buffer,
            critic=task.critic,
        )

    def play(self, model: Any) -> None:
        """All episodes side by side; a batch is what one step of each of them sees."""
        worlds = [self.task.make() for _ in range(self.task.episodes)]
        seen = [world.reset(seed=TEST_SEED + number)[0] for number, world in enumerate(worlds)]
        states = np.zeros((len(worlds), model.state_size), np.float32)
        returns, lengths = np.zeros(len(worlds)), np.zeros(len(worlds), int)
        kept: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        running = list(range(len(worlds)))
        while running:
            rows = np.concatenate([np.array([seen[i] for i in running], np.float32), states[running]], 1)
            with torch.no_grad():
                actions, after = model.advance(torch.from_numpy(rows).to(model.device))
            states[running] = after.cpu().numpy()
            chosen = actions.cpu().numpy()
            kept += zip(rows, chosen, strict=True)
            for number, action in zip(list(running), chosen, strict=True):
                world = worlds[number]
                seen[number], reward, ended, cut, _ = world.step(environments.scaled(action, world))
                returns[number] += reward
                lengths[number] += 1
                if ended or cut:
                    running.remove(number)
        picked = np.linspace(0, len(kept) - 1, TESTED_STEPS).astype(int)
        self.played.observations = np.stack([kept[i][0] for i in picked])
        self.played.actions = np.stack([kept[i][1] for i in picked])
        deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
        self.figures = {
            "return": float(returns.mean()),
            "return_deviation": deviation,
            "length": float(lengths.mean()),
        }
