"""Environments of gymnasium, checked, with an error that says what to install."""

from importlib.util import find_spec
from typing import Any

import numpy as np

from sj_lang.errors import UserError, describe

REACH = 3.0  # of observations without bounds, as in arXiv 2010.09635


def check_installed() -> None:
    missing = [name for name in ("gymnasium", "stable_baselines3") if find_spec(name) is None]
    if missing:
        raise UserError(f"task 'control' needs {' and '.join(missing)}: pip install 'sj-lang-tasks[control]'")


def make(name: str) -> Any:
    """An environment with numbers as observations and actions. UserError if it is none."""
    check_installed()
    import gymnasium

    try:
        environment = gymnasium.make(name)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(
            f"task.environment: {name} needs a package that is not installed, for MuJoCo's: "
            f"pip install 'sj-lang-tasks[mujoco]' ({error})"
        ) from error
    except gymnasium.error.Error as error:
        raise UserError(f"task.environment: {name}: {error}") from error
    except Exception as error:  # foreign code, which raises what it likes
        raise UserError(f"task.environment: {name} cannot be built: {describe(error)}") from error
    seen, acts = environment.observation_space, environment.action_space
    box = gymnasium.spaces.Box
    if not isinstance(acts, box) or len(acts.shape) != 1:
        raise UserError(
            f"task.environment: {name} has the actions {acts}; TD3 needs continuous ones, such as those of Pendulum-v1"
        )
    if not np.isfinite([acts.low, acts.high]).all():
        raise UserError(f"task.environment: {name} has actions without bounds; TD3 needs finite ones")
    if not isinstance(seen, box) or len(seen.shape) != 1:
        raise UserError(f"task.environment: {name} has the observations {seen}; expected one row of numbers")
    return environment


def reach(environment: Any) -> list[float]:
    """The largest size of each observation, if it is bounded."""
    space = environment.observation_space
    sizes = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    return [float(size) if 0 < size < 1e6 else REACH for size in sizes]


def scaled(actions: Any, environment: Any) -> Any:
    """Actions within -1..1 in the units of the environment."""
    space = environment.action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    return (middle + half * actions).astype(space.dtype)
