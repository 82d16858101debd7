"""Spiking neurons that train in parallel over long sequences."""
