"""`sj-lang bench`: a neuron, or the training steps of a recipe's runs."""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """The command line `sj-lang bench`. Returns the exit code; RunFailed if a parity check is red."""
    from sj_lang.bench import neuron, recipe

    of_recipe = any("/" in word.partition("=")[0] or word.endswith((".yaml", ".yml")) for word in words[:1])
    return recipe.main(words) if of_recipe else neuron.main(words)
