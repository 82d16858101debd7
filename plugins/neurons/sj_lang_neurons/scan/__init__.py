"""First-order linear recurrences over time, which trainable neurons without reset have in common."""
