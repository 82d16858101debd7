"""SpikingJelly's own neurons, offered through the same hook as any plugin's."""
