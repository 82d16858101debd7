"""Where the data of the tasks come from."""
