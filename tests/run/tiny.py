"""A tiny model, its task and its neurons, offered like a plugin's. `python tiny.py ARGS` is the
command line with them and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_task import HELD_OUT, Windows

from sj_lang.hookspecs import Register, hookimpl
from sj_lang.plugins import Plugin, Registry, use


class Offers:
    @hookimpl
    def sj_lang_register(self, register: Register) -> None:
        able = {"steps": True, "carries_state": True, "any_length": True, "parameters_per_channel": "1"}
        register.neuron(
            "tiny", "tiny_model:TinyNeuron", summary="leaky, for tests", causal=True, takes_mask=True,
            variants={"both=true": {"causal": False}}, **able,
        )  # fmt: skip
        register.neuron(
            "unmasked",
            "tiny_model:TinyNeuron",
            summary="says that it takes no mask",
            causal=True,
            takes_mask=False,
            **able,
        )
        register.neuron(
            "looks-ahead", "tiny_model:TinyNeuron", summary="says that it is not causal", causal=False, takes_mask=True,
            variants={"both=false": {"causal": True}}, **able,
        )  # fmt: skip
        register.model("tiny", "tiny_model:TinyConfig", summary="for tests")
        register.task("tiny-text", "tiny_task:TinyText", summary="for tests")
        register.tokenizer("letters", "tiny_task:letters", summary="for tests")


@contextmanager
def offered() -> Iterator[Registry]:
    """Inside, the process knows the tiny components and no others."""
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
    """Sends this process a signal when it has read item number `calls` of the training data."""

    def __init__(self, calls: int, number: int = signal.SIGTERM) -> None:
        self.left = calls
        original = Windows.__getitem__

        def counted(windows: Windows, index: int) -> dict[str, Any]:
            self.left -= len(windows) != HELD_OUT
            if self.left == 0 and len(windows) != HELD_OUT:
                os.kill(os.getpid(), number)
            return original(windows, index)

        Windows.__getitem__ = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    from sj_lang.errors import SjLangError
    from sj_lang.recipe import load
    from sj_lang.run import execute

    if "TINY_STOP_AT" in os.environ and os.environ.get("RANK", "0") == os.environ.get("TINY_STOP_RANK", "0"):
        number = signal.Signals[os.environ.get("TINY_SIGNAL", "SIGTERM")]
        signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
        StopAt(int(os.environ["TINY_STOP_AT"]), number)
    with offered():
        try:
            execute(load(sys.argv[1], sys.argv[2:]), resume=os.environ.get("TINY_RESUME"))
        except SjLangError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
