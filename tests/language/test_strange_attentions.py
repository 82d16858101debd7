"""An attention by a stranger: one that sees later tokens, or fails,
is found before the training, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sj_lang_language.plugin
import sj_lang_neurons.plugin
import torch
from sj_lang_language.attention.ssa import SpikingSelfAttention

import sj_lang.spikingjelly.plugin
from sj_lang import plugins, run
from sj_lang.errors import PluginError, UserError
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.recipe import load


class Peek(SpikingSelfAttention):
    """Sees the token after each."""

    def mix(self, q: Any, k: Any, v: Any, valid: Any, state: Any) -> Any:
        return super().mix(q, k, v.roll(-1, -2) if state is None else v, valid, state)


class PeekEven(SpikingSelfAttention):
    """Sees the token after each second one."""

    def mix(self, q: Any, k: Any, v: Any, valid: Any, state: Any) -> Any:
        y, after = super().mix(q, k, v, valid, state)
        ahead, _ = super().mix(q, k, v.roll(-1, -2), valid, state)
        even = torch.arange(y.shape[-2])[:, None] % 2 == 0
        return torch.where(even, ahead, y), after


class Wrong(SpikingSelfAttention):
    """Has another signature."""

    def forward(self, x: Any) -> Any:
        return x


class Deaf(SpikingSelfAttention):
    """Works in evaluation, and fails in the backward pass."""

    def forward(self, x: Any, state: Any = None, mask: Any = None) -> Any:
        if self.training:
            raise RuntimeError("not trainable")
        return super().forward(x, state, mask)


class Strange:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        for made in (Peek, PeekEven, Wrong, Deaf):
            register.attention(made.__name__.lower(), f"{__name__}:{made.__name__}", summary="for tests", causal=True)
        register.attention("undeclared", f"{__name__}:SpikingSelfAttention", summary="says nothing")


RECIPE = """\
recipe: 1
name: strange/test
task: {type: causal_lm, data: text.txt, length: 16, split: [0.8, 0.1, 0.1]}
tokenizer: characters
model: {type: spike_decoder, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
train: {max_steps: 2, per_device_train_batch_size: 4, disable_tqdm: true, use_cpu: true}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("so much depends upon a red wheel barrow " * 40)
    (tmp_path / "r.yaml").write_text(RECIPE)
    fresh = plugins.Registry()
    for module in (sj_lang.spikingjelly.plugin, sj_lang_neurons.plugin, sj_lang_language.plugin):
        owner = module.__name__.partition(".plugin")[0]
        fresh.add(module, plugins.Plugin(owner, module.__name__, owner, "0"))
    fresh.add(Strange(), plugins.Plugin("strange", __name__, "sj-lang-strange", "0.3"))
    with plugins.use(fresh):
        yield "r.yaml"


@pytest.mark.parametrize("name", ["peek", "peekeven"])
@pytest.mark.parametrize("coding", ["individual", "repeat"])
def test_one_that_sees_later_tokens_is_named(recipe: str, coding: str, name: str) -> None:
    changes = [f"model.coding={coding}"]
    message = rf"^attention '{name}' of sj-lang-strange 0\.3: a token changes the logits of those before it"
    for dry_run in (True, False):
        with pytest.raises(PluginError, match=message):
            run.execute(load(recipe, [f"model.attention={name}", *changes]), dry_run=dry_run)
    assert not Path("runs").exists()
    assert run.execute(load(recipe, ["model.attention=ssa", *changes]), dry_run=True) == 0


def test_one_that_fails_is_named(recipe: str) -> None:
    with pytest.raises(PluginError, match=r"^attention 'deaf' of sj-lang-strange 0\.3: a training step fails in it"):
        run.execute(load(recipe, ["model.attention=deaf"]), dry_run=True)
    with pytest.raises(PluginError, match=r"'wrong' of sj-lang-strange 0\.3.* step fails .*TypeError: .*forward\(\)"):
        run.execute(load(recipe, ["model.attention=wrong"]))


def test_one_that_does_not_say_that_it_is_causal_is_refused(recipe: str) -> None:
    for changes, message in (
        (
            ["model.attention=undeclared"],
            r"model\.attention: undeclared cannot be used here: it is not causal, and the",
        ),
        (
            ["model.attention=firing_scores"],
            r"Attentions that can: deaf, peek, peekeven, softmax, ssa, state_space, wrong",
        ),
        (["model.embedding=bert_ngram"], r"model\.embedding: bert_ngram .*Embeddings that can: bert_sum, learned_sum"),
    ):
        with pytest.raises(UserError, match=message):
            load(recipe, changes)
