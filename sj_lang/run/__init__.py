"""Carry out a recipe, `execute(load("lm/quickstart"))`; evaluate a stored run, or let it write."""

from sj_lang.run.console import quiet_libraries
from sj_lang.run.execute import execute
from sj_lang.run.single import train
from sj_lang.run.stored import evaluate, generate

__all__ = ["evaluate", "execute", "generate", "quiet_libraries", "train"]
