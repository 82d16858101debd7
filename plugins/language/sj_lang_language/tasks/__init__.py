"""Tasks: data to batches to metrics. They know no model."""
