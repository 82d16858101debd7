"""Normalizations that follow a Linear; each takes `mask` and keeps padding out of its statistics."""
