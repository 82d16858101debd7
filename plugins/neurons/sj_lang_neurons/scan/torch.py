"""The linear recurrence as one operator in plain torch, with a backward of its own.

Time and memory are O(T): forward and backward each pass once over the data, in blocks that stay in
the cache.
"""

import torch
from torch import Tensor

from sj_lang.operators import operator
from sj_lang_neurons.scan import torch_blocks
from sj_lang_neurons.scan.operator import complete
from sj_lang_neurons.scan.torch_blocks import Rows

BLOCK = 1 << 20  # elements of a block: four arrays of it stay in the third-level cache


@operator("sj_lang::linear_scan")
def scan_torch(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """a [T, N] or [1, N], u [T, N], h_0 [N], of one dtype -> h [T, N]."""
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    h = h_0
    for block in _blocks(u, reverse):
        h = torch_blocks.scan(Rows(_at(a, block)), Rows(u[block]), h, Rows(out[block]), reverse=reverse)
        h = torch.hardshrink(h, torch.finfo(h.dtype).tiny)
    return out


@operator("sj_lang::linear_scan_backward")
def _backward(grad: Tensor, a: Tensor, h: Tensor, h_0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, u and h_0: the recurrence the other way, its decays shifted by a step."""
    grad_a = torch.zeros_like(a, memory_format=torch.contiguous_format)
    grad_u = torch.empty_like(h)
    steps = len(h)
    carry = torch.zeros_like(h_0)  # decay times gradient of the step that was done last
    for block in _blocks(h, not reverse):
        g, out, a_b = grad[block], grad_u[block], _at(a, block)
        first, last = (0, -1) if reverse else (-1, 0)  # in the order of the backward pass
        inner, outer = (slice(1, None), slice(None, -1)) if reverse else (slice(None, -1), slice(1, None))
        torch.add(g[first], carry, out=out[first])
        if len(g) > 1:
            decays = Rows(a_b if len(a) == 1 else a_b[outer])
            torch_blocks.scan(decays, Rows(g[inner]), out[first], Rows(out[inner]), reverse=not reverse)
        carry = torch.hardshrink(a_b[last if len(a) > 1 else 0] * out[last], torch.finfo(h.dtype).tiny)

        start, stop = block.start, block.stop
        if reverse:
            before = h[start + 1 : stop + 1] if stop < steps else torch.cat((h[start + 1 :], h_0[None]))
        else:
            before = h[start - 1 : stop - 1] if start else torch.cat((h_0[None], h[: stop - 1]))
        if len(a) == 1:
            grad_a += (out * before).sum(0)
        else:
            torch.mul(out, before, out=grad_a[block])
    return grad_a, grad_u, carry


complete(scan_torch, _backward)


def _blocks(x: Tensor, backwards: bool) -> list[slice]:
    blocks = torch_blocks.pieces(0, len(x), torch_blocks.block_rows(x, BLOCK))
    return blocks[::-1] if backwards else blocks


def _at(a: Tensor, block: slice) -> Tensor:
    return a if len(a) == 1 else a[block]
