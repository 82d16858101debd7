"""The signature of a component is the schema of its section in a recipe."""
