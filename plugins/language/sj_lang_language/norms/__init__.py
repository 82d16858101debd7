"""Normalizations that follow a Linear, each with a `mask` that keeps padding out."""
