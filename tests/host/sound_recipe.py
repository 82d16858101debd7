"""A sound recipe of toys, which tests spoil, and what is said of a spoilt one."""

from typing import Any

import pytest

from sj_lang import recipe
from sj_lang.errors import UserError

SOUND = """\
recipe: 1
name: sound
summary: A recipe of toys.
seed: 3
task:
  type: toy_task
  data: poem
  length: 32
tokenizer: letters
model:
  type: toy_model
  hidden_size: 16
  neuron:
    type: toy_lif
    tau: 4.0
train:
  max_steps: 10
  learning_rate: 1e-3
  lr_scheduler_type: cosine_with_min_lr
  lr_scheduler_kwargs: {min_lr_rate: 0.1}
generate:
  temperature: 0.8
  prompt: so much
"""


def refused(*arguments: Any) -> list[str]:
    """The lines of the error that `recipe.load` ends with, without its head."""
    with pytest.raises(UserError) as caught:
        recipe.load(*arguments)
    lines = str(caught.value).splitlines()
    return [line.strip() for line in lines[1:] or lines]
