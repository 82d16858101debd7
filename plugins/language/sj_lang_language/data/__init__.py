"""Data: running text (`text`), tables of sentences (`tables`), and both from the hub (`hub`)."""
