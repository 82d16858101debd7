"""h_t = a h_{t-1} + u_t with one decay for all steps: the scan of a node with static leaks."""

import math

import torch
from torch import Tensor

FEW_STEPS = 64
LONG_ROW = 16_384  # elements of a step from which an operation per step is as fast as any way


def constant_scan(u: Tensor, decay: Tensor, out: Tensor, *, reverse: bool = False) -> None:
    """Fill `out` in place; no gradient. All contiguous; u may be the part of `out` that it fills.

    u [T, N], decay [N], out [T + 1, N] with the start in out[0]: out[t + 1] = decay out[t] + u[t].
    Reverse: with the start in out[T], out[t] = decay out[t + 1] + u[t].

    Two passes over chunks of `length` steps: what each adds to its last step, then, with the
    carries of a scan over the chunks, all chunks at once step by step. 2 length + T / length
    operations in place of T.
    """
    steps, width = u.shape
    if steps < FEW_STEPS or width >= LONG_ROW:
        _steps(u, decay, out, reverse)
        return
    length = 1 << round(math.log2(steps / 2) / 2)
    chunks = steps // length
    body = chunks * length
    if reverse:
        _steps(u[body:], decay, out[body:], reverse)
    inputs = u[:body].view(chunks, length, width).unbind(1)
    filled = (out[:body] if reverse else out[1 : body + 1]).view(chunks, length, width).unbind(1)
    order = range(length - 1, -1, -1) if reverse else range(length)

    added = inputs[order[0]].clone()
    for k in order[1:]:
        torch.addcmul(inputs[k], added, decay, out=added)
    carry = out.new_empty(chunks + 1, width)
    carry[chunks if reverse else 0] = out[body if reverse else 0]
    power = decay**length
    power.masked_fill_(power < torch.finfo(power.dtype).tiny, 0)  # subnormal numbers are slow
    constant_scan(added, power, carry, reverse=reverse)
    before = carry[1:] if reverse else carry[:-1]
    for k in order:
        torch.addcmul(inputs[k], before, decay, out=filled[k])
        before = filled[k]
    if not reverse:
        _steps(u[body:], decay, out[body:], reverse)


def _steps(u: Tensor, decay: Tensor, out: Tensor, reverse: bool) -> None:
    u_t, out_t = u.unbind(0), out.unbind(0)
    if reverse:
        for t in range(len(u_t) - 1, -1, -1):
            torch.addcmul(u_t[t], out_t[t + 1], decay, out=out_t[t])
    else:
        for t in range(len(u_t)):
            torch.addcmul(u_t[t], out_t[t], decay, out=out_t[t + 1])
