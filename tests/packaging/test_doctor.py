"""What `sj-lang doctor` says of environments that are whole, broken, or lack something."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sj_lang import hf
from sj_lang.commands import doctor
from sj_lang.hookspecs import hookimpl
from sj_lang.neuron import Kernel, Node
from sj_lang.plugins import Plugin, Registry, use

FLAGS = dict.fromkeys(("causal", "steps", "carries_state", "takes_mask", "any_length"), True)


class Glow(Node):
    """A neuron with kernels, of which one can never run."""

    kernels = {"torch": Kernel(max), "cupy": Kernel(max, lambda x: "needs a moon")}  # noqa: RUF012


class Offer:
    """A plugin with one neuron."""

    def __init__(self, target: str, missing: str = "") -> None:
        self.target, self.missing = target, missing

    @hookimpl
    def sj_lang_register(self, register) -> None:  # type: ignore[no-untyped-def]
        more = {"summary": "of this test", "parameters_per_channel": "0", "missing": self.missing}
        register.neuron("glow", self.target, **FLAGS, **more)


def examine(*plugins: object) -> tuple[int, str]:
    """Return doctor's exit code and its text, lines joined, for these plugins."""
    registry, said = Registry(), []
    for number, plugin in enumerate(plugins):
        registry.add(plugin, Plugin(f"plugin{number}", "offer", f"dist{number}", "1.2"))
    with use(registry):
        code = doctor.main(said.append)
    return code, " ".join(" ".join(said).split())


def test_sound_plugin() -> None:
    code, text = examine(Offer(f"{__name__}:Glow"))
    assert code == 0
    assert "plugin0 ok dist0 1.2, 1 components" in text
    assert text.endswith("Runs work here.")
    assert f"torch ok {torch.__version__.split('+')[0]}" in text


def test_backend_of_auto_and_why_not_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert 'glow ok torch; "cupy" needs a CUDA device, and torch sees none' in examine(Offer(f"{__name__}:Glow"))[1]


def test_broken_plugin_is_told_and_the_rest_goes_on() -> None:
    code, text = examine(ModuleType("no_hook"), Offer(f"{__name__}:Glow"))
    assert code == 3
    assert "plugin0 BROKEN dist0 1.2: offer has no hook" in text
    assert "plugin1 ok" in text


def test_component_that_cannot_be_imported() -> None:
    code, text = examine(Offer("no.such.module:Glow"))
    assert code == 3
    assert "glow BROKEN neuron 'glow' of dist0 1.2: importing no.such.module failed: ModuleNotFoundError" in text


def test_component_that_is_not_available() -> None:
    code, text = examine(Offer("no.such.module:Glow", missing="needs a newer moon"))
    assert code == 0
    assert "glow none neuron: needs a newer moon" in text


def test_two_of_one_name() -> None:
    code, text = examine(Offer("a:Glow"), Offer("b:Glow"))
    assert code == 3
    assert "neuron 'glow' is offered by plugin 'plugin0' of dist0 1.2 and by plugin 'plugin1' of dist1 1.2" in text


def test_hidden_package_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "shield", lambda: {"torchaudio": "RuntimeError: other CUDA version."})
    code, text = examine()
    assert code == 0
    assert "cannot be loaded: RuntimeError: other CUDA version. Harmless: sj_lang hides it" in text


def test_broken_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, text = examine()
    assert code == 1
    assert "tokenizers BROKEN" in text
    assert text.endswith("Runs do not work here: see BROKEN.")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    monkeypatch.setitem(sys.modules, "torch", None)
    code, text = examine()
    assert code == 1
    assert "torch BROKEN pip install torch" in text


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    code, text = examine()
    assert code == 0
    assert "cupy none needed only by backend: cupy" in text


def test_cupy_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise OSError('libcudart is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    code, text = examine()
    assert code == 0
    assert "cupy hidden cannot be loaded: OSError: libcudart is missing; needed only by backend: cupy" in text
