"""The verbs of the command line that are not a run: listings, the doctor, a new plugin."""
