"""What a neuron, or a training step of a recipe, costs beside others."""
