"""Spiking language components, models, tasks and data sources."""
