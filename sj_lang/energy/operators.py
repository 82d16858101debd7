"""How many operations torch's operators do, apart from products.

A norm, a softmax or an activation is counted by its formula. An operator that works on each element
counts as one operation per element. Comparisons, choices, copies, views and arithmetic on indices
are free.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: operations for each element: norms are sums, differences, squares, a scale and a shift; in
#: evaluation mode a batch norm is one multiply-accumulate; GELU is a look-up and a product
FORMULAS = {"layer_norm": 5, "group_norm": 5, "rms_norm": 4, "batch_norm": 1, "batch_norm_legit_no_training": 1}
FORMULAS |= {"cudnn_batch_norm": 1, "softmax": 4, "safe_softmax": 4, "gelu": 2, "silu": 2, "hardswish": 2, "mish": 3}
#: operations for each element of the input
REDUCTIONS = {"sum": 1, "mean": 1, "cumsum": 1, "prod": 1, "var": 3, "std": 3, "var_mean": 3, "logsumexp": 3}
REDUCTIONS |= {"linalg_vector_norm": 2, "norm": 2, "adaptive_avg_pool2d": 1, "adaptive_avg_pool3d": 1, "cumprod": 1}
POOLS = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}
#: read from a table: no operation, but memory
LOOKUPS = {"embedding", "index_select", "gather", "index"}
#: comparisons, choices, copies, creation, and losses, which a network in use does not compute
# fmt: off
FREE = {
    "eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill", "logical_and", "logical_or", "logical_not",
    "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "isnan", "isinf", "isfinite", "sign",
    "heaviside", "maximum", "minimum", "fmax", "fmin", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all",
    "sort", "argsort", "topk", "max_pool2d_with_indices", "max_pool3d_with_indices", "clone", "copy", "to_copy", "cat",
    "stack", "expand", "repeat", "roll", "flip", "tril", "triu", "constant_pad_nd", "slice_scatter", "select_scatter",
    "index_put", "scatter", "fill", "zero", "masked_select", "nonzero", "equal", "local_scalar_dense", "detach",
    "alias", "lift_fresh", "unsafe_view", "unsafe_index", "zeros_like", "ones_like", "empty_like", "full_like",
    "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "bernoulli",
    "native_dropout", "dropout", "bitwise_left_shift", "reflection_pad2d", "bucketize", "repeat_interleave",
    "pixel_shuffle", "log_softmax", "nll_loss_forward", "nll_loss2d_forward", "mse_loss",
    "binary_cross_entropy_with_logits",
}
# fmt: on
#: a network with one of these between its spikes is not made of spikes alone; a batch norm is none
#: of them, because it folds into a Linear layer
# fmt: off
NOT_SPIKING = {
    "layer_norm", "group_norm", "rms_norm", "softmax", "safe_softmax", "gelu", "silu", "hardswish",
    "mish", "relu", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "reciprocal", "pow", "erf", "elu", "leaky_relu",
    "softplus", "logsumexp",
}
# fmt: on


def short(packet: Any) -> str:
    """The usual name of an operator, such as "softmax" for `_softmax` and "add" for `add_`."""
    return str(packet.__name__).strip("_").removeprefix("native_")


def operations(func: Any, args: tuple[Any, ...], out: Any) -> float | None:
    """How many floating-point operations an operator does; None if that is not known."""
    name = short(func.overloadpacket)
    result = out[0] if isinstance(out, tuple | list) and out else out
    tensors = [x for x in args if isinstance(x, Tensor)]
    if not tensors or name in FREE | LOOKUPS or func.is_view or not isinstance(result, Tensor):
        return 0.0
    if not result.is_floating_point() and not result.is_complex():
        return 0.0
    if name in FORMULAS:
        return float(FORMULAS[name] * result.numel())
    if name in REDUCTIONS:
        return float(REDUCTIONS[name] * tensors[0].numel())
    if name in POOLS:
        kernel = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        sides = int(name[-2]) if len(kernel) == 1 else 1
        return float(result.numel() * math.prod(kernel) ** sides)
    if torch.Tag.pointwise in func.tags:
        return float(result.numel())
    return None
