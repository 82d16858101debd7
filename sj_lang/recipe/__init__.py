"""From a YAML file to a checked recipe: `load("lm/quickstart", ["train.max_steps=100"])`."""

from sj_lang.recipe.loading import Recipe, generation, load

__all__ = ["Recipe", "generation", "load"]
