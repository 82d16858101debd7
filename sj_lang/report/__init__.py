"""What a run shows: one page, and its figures."""
