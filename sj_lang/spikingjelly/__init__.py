"""SpikingJelly's own neurons, offered through the hook like everybody's."""
