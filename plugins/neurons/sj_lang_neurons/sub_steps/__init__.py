"""Several sub-steps of another neuron in each step."""
