"""Embeddings: token ids `[B, L]` to spikes or currents, time first."""
