"""A small spiking language model, its task and its neurons, offered like a plugin's. `python tiny.py ARGS` is the
command line with them and nothing else."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sj_lang.component.schema import Part
from sj_lang.errors import UserError
from sj_lang.hf import shield
from sj_lang.hookspecs import Register, hookimpl
from sj_lang.plugins import Plugin, Registry, use
from sj_lang.task import Prepared, Task

shield()

from huggingface_hub.dataclasses import strict  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad / (1 + (math.pi * v) ** 2)


class TinyNeuron(nn.Module):
    """v = v / 2 + x, spike at 1, reset by subtraction."""

    levels = 1
    step_mode = "m"

    def __init__(self, *, channels: int, threshold: float = 1.0, both: bool = False) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((channels,), threshold))

    def init_state(self, x: Tensor) -> dict[str, Tensor]:
        return {"v": torch.zeros_like(x[0])}

    def functional(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        v = (state or self.init_state(x))["v"]
        spikes = []
        for t in range(x.shape[0]):
            keep = torch.ones_like(x[t]) if mask is None else mask[t].to(x)[:, None].expand_as(x[t])
            w = v / 2 + x[t]
            s = Step.apply(w - self.threshold)
            v = torch.where(keep > 0, w - s * self.threshold, v)
            spikes.append(s * keep)
        return torch.stack(spikes), {"v": v}


@strict
class TinyConfig(PreTrainedConfig):
    model_type = "sj-tiny-test"
    vocab_size: int = 10
    dim: int = 16
    num_hidden_layers: int = 2
    dropout: float = 0.1
    max_position_embeddings: int = 64
    pad_token_id: int | None = None
    neuron: Part["neuron"] = "tiny"  # type: ignore[assignment]  # noqa: UP037
    twin: bool = False
    initializer_range: float = 0.5
    explode_at: int = 0
    deaf: bool = False

    def requires(self, *, pads: bool) -> dict[str, dict[str, str]]:
        needs = {"causal": "the model is causal"}
        if pads:
            needs["takes_mask"] = "the task pads its batches"
        return {} if self.twin else {"neuron": needs}


class TinyBlock(nn.Module):
    def __init__(self, config: TinyConfig, node: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.dim)
        self.neuron = node
        self.down = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x_up = self.up(x)
        fired = self.neuron.functional(x_up, None, mask)[0] if hasattr(self.neuron, "functional") else self.neuron(x_up)
        return x + self.dropout(self.down(fired))


class TinyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TinyConfig
    _calls = 0

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        from sj_lang.build import part

        make = part("neuron", config.neuron)
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        nodes = [nn.GELU() if config.twin else make(channels=config.dim) for _ in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(TinyBlock(config, node) for node in nodes)
        self.head = nn.Linear(config.dim, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TinyNeuron):
            nn.init.ones_(module.threshold)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        x = self.embed(input_ids).transpose(0, 1)
        mask = None if attention_mask is None else attention_mask.T.bool()
        if self.training:
            self._calls += 1
            if self.config.explode_at and self._calls >= self.config.explode_at:
                x = x / torch.zeros(())
        for block in self.layers:
            x = block(x, mask)
        logits = self.head(x.transpose(0, 1))
        loss = None
        if labels is not None:
            wanted = {} if self.config.deaf else kwargs
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **wanted)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        return {"input_ids": input_ids, "attention_mask": attention_mask}


AutoConfig.register("sj-tiny-test", TinyConfig)
AutoModelForCausalLM.register(TinyConfig, TinyForCausalLM)

LETTERS = "abcdefghij"


class Windows:
    def __init__(self, rows: list[list[int]], ragged: bool) -> None:
        self.rows, self.ragged = rows, ragged

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.rows[index]
        valid = len(ids) - (index * 5) % 9 if self.ragged else len(ids)
        mask = [1] * valid + [0] * (len(ids) - valid)
        labels = [token if keep else -100 for token, keep in zip(ids, mask, strict=True)]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class TinyText(Task):
    """Letters that mostly follow one another in the alphabet, in windows of 12."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    causal: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def __init__(self, *, windows: int = 48, validation: bool = True, ragged: bool = True, prompt: bool = True) -> None:
        self.windows, self.validation, self.ragged, self.prompt = windows, validation, ragged, prompt

    def prepare(self, tokenizer: Any, *, seed: int) -> Prepared:
        if self.windows < 1:
            raise UserError(f"task.windows is {self.windows}, it must be at least 1")
        source = random.Random(7)
        text, letter = [], 0
        for _ in range(12 * (self.windows + 22)):
            letter = (letter + 1) % 10 if source.random() < 0.9 else source.randrange(10)
            text.append(letter)
        rows = [text[12 * i : 12 * i + 12] for i in range(self.windows + 22)]
        words = tokenizer(texts=[LETTERS])
        return Prepared(
            tokenizer=words,
            train=Windows(rows[: self.windows], self.ragged),
            validation=Windows(rows[self.windows : self.windows + 11], self.ragged) if self.validation else None,
            tests={"test": Windows(rows[self.windows + 11 :], self.ragged)},
            reduce=reduce,
            metrics=metrics,
            model={"vocab_size": 10, "max_position_embeddings": 12},
            fingerprint={"letters": len(text)},
            notes=["letters, not words"],
        )

    def sample_prompt(self, prepared: Prepared) -> str | None:
        return "abc" if self.prompt else None


def reduce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    targets = labels[:, 1:]
    losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, reduction="none")
    return losses.double().sum(1), (targets != -100).sum(1)


def metrics(split: str, reduced: Any, labels: Any) -> dict[str, float]:
    loss = float(np.sum(reduced[0]) / np.sum(reduced[1]))
    return {"loss": loss, "bits_per_char": loss / math.log(2)}


def letters(*, texts: Any) -> PreTrainedTokenizerFast:
    vocabulary = {letter: index for index, letter in enumerate("".join(texts))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Offers:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        able = {"steps": True, "carries_state": True, "any_length": True, "parameters_per_channel": "1"}
        here = __name__
        register.neuron(
            "tiny", f"{here}:TinyNeuron", summary="leaky, for tests", causal=True, takes_mask=True,
            variants={"both=true": {"causal": False}}, **able,
        )  # fmt: skip
        register.neuron(
            "unmasked",
            f"{here}:TinyNeuron",
            summary="says that it takes no mask",
            causal=True,
            takes_mask=False,
            **able,
        )
        register.neuron(
            "looks-ahead", f"{here}:TinyNeuron", summary="says that it is not causal", causal=False, takes_mask=True,
            variants={"both=false": {"causal": True}}, **able,
        )  # fmt: skip
        register.model("tiny", f"{here}:TinyConfig", summary="for tests")
        register.task("tiny-text", f"{here}:TinyText", summary="for tests")
        register.tokenizer("letters", f"{here}:letters", summary="for tests")


@contextmanager
def offered() -> Iterator[Registry]:
    """The components of this file, and no others, are what the process knows."""
    fresh = Registry()
    fresh.add(Offers(), Plugin("tiny", __name__, "tiny-test", "0"))
    with use(fresh):
        yield fresh


RECIPE = """\
recipe: 1
name: tiny/test
summary: a test
task: {type: tiny-text}
tokenizer: {type: letters}
model: {type: tiny}
train:
  max_steps: 12
  per_device_train_batch_size: 4
  learning_rate: 0.01
  logging_steps: 2
  eval_steps: 4
  disable_tqdm: true
generate: {max_new_tokens: 5, do_sample: false}
"""


def write_recipe(folder: Path, more: str = "") -> str:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE + more)
    return str(path)


class StopAt:
    """Sends this process SIGTERM when it has read item number `calls` of the training data."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        original = Windows.__getitem__

        def counted(windows: Windows, index: int) -> dict[str, Any]:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(windows, index)

        Windows.__getitem__ = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.modules["tiny"] = sys.modules["__main__"]
    from sj_lang.errors import SjLangError
    from sj_lang.recipe import load
    from sj_lang.run import execute

    if "TINY_STOP_AT" in os.environ and os.environ.get("RANK", "0") == os.environ.get("TINY_STOP_RANK", "0"):
        StopAt(int(os.environ["TINY_STOP_AT"]))
    with offered():
        try:
            execute(load(sys.argv[1], sys.argv[2:]), resume=os.environ.get("TINY_RESUME"))
        except SjLangError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
