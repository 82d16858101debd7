"""Data to batches to figures. Tasks know no model."""
