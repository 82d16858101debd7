"""First-order linear recurrences over time, which neurons without reset share."""
