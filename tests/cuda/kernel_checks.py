"""The part of the conformance kit that is about a kernel, not about the node around it."""

KERNEL_CHECKS = (
    "steps_equal_sequence",
    "pieces_equal_whole",
    "padding_is_removal",
    "gradients_are_exact",
    "half_precision",
    "nan_stays_visible",
    "output_is_fully_written",
    "incoming_gradients",
    "large_batches",
    "without_a_graph",
)
