"""The linear recurrence with a logarithmic decay on the GPU: `kernel.cu` as a torch operator."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sj_lang import cuda
from sj_lang.neuron import state_dtype
from sj_lang.operators import operator
from sj_lang_neurons.scan import chain
from sj_lang_neurons.scan.cuda_layout import flat, like, schedule, sizes, strides

FILE = Path(__file__).with_name("kernel.cu")


def log_scan(g: Tensor, u: Tensor, h_0: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h_t = exp(g_t) h_{t-1} + u_t: all h_t [T, B, C, ...] in u's dtype, and the last valid one.

    g, u [T, B, C, ...] of one dtype: float32, float64, float16 or bfloat16, of any strides; g <= 0
    is a decay. h_0 and the last state are float32, float64 for float64: the decay exp(g) and the
    sum are never rounded to half precision. lengths [B] int64: the valid steps, which come first,
    and after which h is 0; None: all. Gradients of g, u and h_0. Raises ValueError and TypeError
    for shapes and dtypes that do not fit, RuntimeError if no kernel can run.
    """
    if u.dim() < 3 or g.shape != u.shape or h_0.shape != u.shape[1:]:
        raise ValueError(
            f"log_scan: g and u are [T, B, C, ...] and h_0 is [B, C, ...], got {tuple(g.shape)}, {tuple(u.shape)} "
            f"and {tuple(h_0.shape)}"
        )
    if u.dtype not in cuda.IO or g.dtype != u.dtype or h_0.dtype != state_dtype(u):
        raise TypeError(
            f"log_scan: g and u are both float32, float64, float16 or bfloat16 and h_0 is float32, float64 beside "
            f"float64, got {g.dtype}, {u.dtype} and {h_0.dtype}"
        )
    h, last = _forward(g, u, h_0, lengths)
    return h, last


@operator("sj_lang::log_scan_cuda")
def _forward(g: Tensor, u: Tensor, h_0: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """g, u [T, B, C, ...]."""
    h, last = like(u), _empty(h_0)
    tensors = (flat(g), flat(u), h_0.contiguous(), lengths, flat(h), last)
    _launch("log_scan", (g, u, h), tensors)
    return h, last


def _empty(h_0: Tensor) -> Tensor:
    return torch.empty_like(h_0, memory_format=torch.contiguous_format)


class _PlannedScan(NamedTuple):
    """words: of the memory that split sequences need, 0 for others."""

    words: int
    run: cuda.Plan


def _launch(name: str, sequences: Sequence[Tensor], tensors: Sequence[Tensor | None]) -> None:
    """Run the kernel on tensors; sequences: those with strides, of which the last is the result."""
    u = sequences[-1]
    key = (name, u.shape, u.dtype, u.device, *(x.stride() for x in sequences))
    planned: _PlannedScan | None = cuda.PLANS.get(key)
    if planned is None:
        columns, steps = math.prod(u.shape[1:]), u.shape[0]
        tile = schedule(columns, steps)
        macros = cuda.macros_of(IO=cuda.IO[u.dtype], **tile.macros)
        numbers = [*(stride for x in sequences for stride in strides(x)), *sizes(u)]
        grid = tile.grid(tile.blocks(columns), steps)
        run = cuda.Plan(FILE, name, macros, grid, tile.block, len(tensors) + 1, numbers, u.device)
        words = chain.words(1, tile.tiles(steps), columns, state_dtype(u)) if tile.split else 0
        cuda.remember(key, planned := _PlannedScan(words, run))
    planned.run(*tensors, chain.memory(planned.words, u.device))


_forward.register_fake(lambda g, u, h_0, lengths: (like(u), _empty(h_0)))


@operator("sj_lang::log_scan_cuda_backward")
def _backward(
    grad: Tensor, grad_last: Tensor, g: Tensor, h: Tensor, h_0: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of g, u and h_0."""
    results = like(g), like(h), _empty(h_0)
    grad_g, grad_u, grad_0 = results
    read = (flat(grad), grad_last.contiguous(), flat(g), flat(h), h_0.contiguous(), lengths)
    sequences = grad, g, h, grad_g, grad_u
    _launch("log_scan_backward", sequences, (*read, flat(grad_g), flat(grad_u), grad_0))
    return results


_backward.register_fake(lambda grad, grad_last, g, h, h_0, lengths: (like(g), like(h), _empty(h_0)))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    g, _, h_0, lengths = inputs
    ctx.save_for_backward(g, output[0], h_0, lengths)


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    g, h, h_0, lengths = ctx.saved_tensors
    return *_backward(grad, grad_last, g, h, h_0, lengths), None


_forward.register_autograd(_differentiate, setup_context=_keep)
