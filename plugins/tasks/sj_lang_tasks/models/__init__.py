"""Spiking networks over sequences, each with its ANN twin. Models know no task."""
