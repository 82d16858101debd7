"""A registry that holds the toy plugin alone, and a way to write recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sound_recipe import SOUND
from source_tree import ROOT, Tree

from sj_lang import plugins
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.plugins import Plugin, Registry


class Toy:
    """Registers what toy.py holds."""

    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        flags = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}
        register.neuron("toy_lif", "toy:Lif", summary="leaks", parameters_per_channel="0", **flags)
        register.neuron(
            "toy_delay",
            "toy:Delay",
            summary="waits",
            parameters_per_channel="1",
            variants={"direction=both": {"causal": False, "steps": False}},
            **flags,
        )
        register.neuron(
            "absent", "toy:Lif", summary="not here", parameters_per_channel="0", missing="needs x 2", **flags
        )
        register.attention("mixing", "toy:Mixing", summary="mixes")
        register.norm("centre", "toy:Centre", summary="centres")
        register.model("toy_model", "toy:ToyConfig", summary="a config")
        register.task("toy_task", "toy:ToyTask", summary="a task")
        register.tokenizer("letters", "toy:Letters", summary="one letter, one token")
        register.source("poem", "toy:Poem", summary="a short text")


@pytest.fixture
def toy() -> Iterator[Registry]:
    """The process's registry, holding the toy plugin alone."""
    registry = Registry()
    registry.add(Toy(), Plugin("toy", "toy", "sj-lang-toy", "1.0"))
    assert not registry.broken(), registry.broken()
    with plugins.use(registry):
        yield registry


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a recipe into the working directory, an empty folder; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write_recipe(text: str = SOUND, name: str = "r.yaml") -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write_recipe


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The sources in a folder where breaches of rules are planted."""
    return Tree(ROOT).copy(tmp_path_factory.mktemp("copy"))
