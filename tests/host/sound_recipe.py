"""A sound recipe of toys; tests spoil it."""

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
