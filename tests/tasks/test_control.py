"""Policies that learn to act: the network, TD3 with it, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sj_lang_tasks.control import environments
from sj_lang_tasks.models.population_policy import PopulationPolicy, PopulationPolicyConfig
from sj_lang_tasks.tasks.control import Control

from sj_lang import run
from sj_lang.energy import ledger
from sj_lang.errors import PluginError, UserError
from sj_lang.recipe import load

NEURONS = {
    "lif": {"type": "lif", "decay_input": False},
    "sliding_psn": {"type": "sliding_psn", "k": 3},
    "dsn": {"type": "dsn", "n": 4, "alpha_init": 0.5},
}
TINY = ["seeds=null", "runs=null", "train.max_steps=60", "task.warmup=30", "task.episodes=2", "task.critic=[16]"]
TINY += ["model.hidden_size=16", "train.logging_steps=20", "train.per_device_train_batch_size=8"]


@pytest.fixture
def gymnasium() -> object:
    reason = "install what control needs with: pip install 'sj-lang-tasks[control]'"
    pytest.importorskip("stable_baselines3", reason=reason)
    return pytest.importorskip("gymnasium", reason=reason)


def build(**options: object) -> PopulationPolicy:
    torch.manual_seed(0)
    return PopulationPolicy(PopulationPolicyConfig(reach=[1.0, 8.0], action_size=2, hidden_size=12, **options)).eval()


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_trains_and_products_behind_the_first_take_spikes(name: str) -> None:
    net = build(neuron=NEURONS[name]).train()
    seen = torch.tensor([[0.5, -3.0], [-1.0, 7.0], [0.0, 0.0]])
    out = net(seen, labels=torch.zeros(3, 2))
    assert out.logits.shape == (3, 2)
    assert bool((out.logits.abs() <= 1).all())
    out.loss.backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    book = ledger(net.eval(), {"observations": seen})
    assert not book.uncounted
    wrong = book.impurities(strict=False)
    assert len(wrong) == 1, wrong  # the receptive fields


@pytest.mark.parametrize("name", NEURONS)
def test_a_carried_state_goes_on_where_the_last_action_left_it(name: str) -> None:
    """Five actions of T = 2 with the state handed on equal T = 10 in the neurons."""
    seen = torch.tensor([[0.5, -3.0], [-1.0, 7.0]])
    carried = build(neuron=NEURONS[name], carry_state=True, timesteps=2)
    assert carried.state_size > 0
    whole = build(neuron=NEURONS[name], carry_state=True, timesteps=10)
    whole.load_state_dict(carried.state_dict())
    state = torch.zeros(2, 0)
    for _ in range(5):
        _, state = carried.advance(torch.cat([seen, state], 1))
    _, at_once = whole.advance(seen)
    assert torch.allclose(state, at_once, atol=1e-5)
    reset = build(neuron=NEURONS[name])
    assert reset.state_size == 0
    assert reset.advance(seen)[1].shape == (2, 0)


def test_the_twin_has_the_same_shapes_and_no_state() -> None:
    net, twin = build(neuron=NEURONS["lif"]), build(twin=True, carry_state=True)
    shapes = {name: p.shape for name, p in net.named_parameters() if ".node." not in name}
    assert {name: p.shape for name, p in twin.named_parameters()} == shapes
    assert twin.state_size == 0


@pytest.mark.parametrize("carry", [False, True])
def test_a_run_trains_and_plays(gymnasium: object, carry: bool) -> None:
    changes = [*TINY, "model.neuron={type: dsn, n: 1, alpha_init: 0.5}", f"model.carry_state={str(carry).lower()}"]
    run.execute(load("five/control", [*changes, "output=one"]))
    metrics = json.loads(Path("one/metrics.json").read_text())
    assert metrics["test.loss"] < 1e-6  # the network gives the actions again that it played
    assert metrics["test.length"] == 200
    assert -2000 < metrics["test.return"] < 0
    assert metrics["train.steps"] == 60
    assert {"firing_rate.mean", "energy.neurons_mj", "train.seconds_per_step"} <= set(metrics)
    lines = [json.loads(line) for line in Path("one/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [40, 60]
    assert "train.critic_loss" in lines[-1]
    run.evaluate(Path("one"))
    assert json.loads(Path("one/eval.json").read_text())["test.return"] == pytest.approx(metrics["test.return"])
    if carry:
        return
    run.execute(load("five/control", [*changes, "output=again"]))
    assert json.loads(Path("again/metrics.json").read_text())["test.return"] == metrics["test.return"]


def test_training_changes_the_actor(gymnasium: object) -> None:
    from sj_lang_tasks.control import td3

    net = build(neuron=NEURONS["dsn"], carry_state=True)
    world = environments.make("Pendulum-v1")
    net = PopulationPolicy(
        PopulationPolicyConfig(reach=environments.reach(world), hidden_size=12, neuron=NEURONS["dsn"])
    )
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    options = {"learning_rate": 1e-2, "batch_size": 8, "every": 5, "seed": 0, "warmup": 10, "noise": 0.1}
    td3.train(net, world, lambda step, figures: None, steps=30, gamma=0.9, buffer=100, critic=[8], **options)
    assert any(not torch.equal(before[name], p) for name, p in net.named_parameters())


def test_the_state_stands_behind_the_observation_and_critics_do_not_see_it(gymnasium: object) -> None:
    from sj_lang_tasks.control import td3

    world = environments.make("Pendulum-v1")
    config = PopulationPolicyConfig(
        reach=environments.reach(world), hidden_size=4, neuron=NEURONS["dsn"], carry_state=True
    )
    net = PopulationPolicy(config)
    stateful = td3.WithState(world, net)
    first, _ = stateful.reset(seed=0)
    assert first.shape == (3 + net.state_size,)
    assert not first[3:].any()
    then, *_ = stateful.step(np.zeros(1, np.float32))
    _, state = net.advance(torch.from_numpy(first)[None])
    assert np.allclose(then[3:], state[0].detach().numpy())
    assert td3.WithoutState(stateful.observation_space, 3)(torch.from_numpy(then)[None]).shape == (1, 3)


def test_discrete_actions_are_refused(gymnasium: object) -> None:
    with pytest.raises(UserError, match=r"CartPole-v1 has the actions Discrete\(2\); TD3 needs continuous ones"):
        Control(environment="CartPole-v1").prepare(None, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"task.environment: Pendulums-v1: "):
        Control(environment="Pendulums-v1").prepare(None, seed=0)  # type: ignore[arg-type]


def test_without_the_extra_one_sentence_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs gymnasium and stable_baselines3: pip install 'sj-lang-tasks\[control\]'"
    ):
        run.execute(load("five/control", TINY), dry_run=True)


def test_without_mujoco_one_sentence_names_the_command(gymnasium: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"InvertedDoublePendulum-v5 needs .* pip install 'sj-lang-tasks\[mujoco\]'"):
        Control(environment="InvertedDoublePendulum-v5").prepare(None, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "task.episodes is 0; expected 1 or more"),
        ({"warmup": 0}, "task.warmup is 0"),
        ({"noise": -1}, "task.noise is -1"),
        ({"gamma": 1.5}, "task.gamma is 1.5; expected 0 to 1"),
        ({"critic": []}, r"task.critic is \[\]"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Control(**options)  # type: ignore[arg-type]


def test_psn_cannot_carry_a_state(gymnasium: object) -> None:
    changes = [*TINY, "model.neuron={type: psn, T: 5}", "model.carry_state=true"]
    with pytest.raises(
        (UserError, PluginError), match=r"psn cannot be used here: it cannot carry its state on, and model\.carry_state"
    ):
        run.execute(load("five/control", changes), dry_run=True)


def test_a_training_without_an_update_is_refused(
    gymnasium: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [change.replace("warmup=30", "warmup=60") for change in TINY]
    changes = [*tiny, "model.neuron={type: dsn, n: 1, alpha_init: 0.5}"]
    with pytest.raises(UserError, match=r"train\.max_steps is 60, and the first 60 steps \(task\.warmup\)"):
        run.execute(load("five/control", changes))


@pytest.mark.parametrize("name", ["control-double-pendulum", "control-full"])
def test_the_full_sizes_are_built(gymnasium: object, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mujoco", reason="install MuJoCo with: pip install 'sj-lang-tasks[mujoco]'")
    run.execute(load(f"five/{name}", ["runs=null", "seeds=null"]), dry_run=True)
    assert "dry run: nothing is trained" in capsys.readouterr().out
