"""What DSN's kernels take and return: as the node has it, and with the columns as one axis."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class DSNInputs(NamedTuple):
    """A call of any kernel: `run(inputs, firing) -> DSNOutputs`.

    x [T, B, C, ...]; tail [B, k-1, C, ...], the inputs before it; h_0 [B, C, ...]; both may be None
    for zeros, if the kernel says `zeros`. weight [C, k], the taps, the oldest input first; bias [C]
    or [T, B, C, ...]; k = 0, and no tail, for a logit that is the bias. lengths [B] int64: the
    valid steps, which come first; None: all. m: 1 / tau. All float32, or float64; x may be narrower
    if the kernel says `half`.
    """

    x: Tensor
    tail: Tensor | None
    h_0: Tensor | None
    weight: Tensor
    bias: Tensor
    lengths: Tensor | None
    m: float


class DSNOutputs(NamedTuple):
    """Spikes; potential and last k - 1 inputs after the valid steps; potentials, if needed."""

    spikes: Tensor
    h: Tensor
    tail: Tensor
    potentials: Tensor | None


class DSNColumns(NamedTuple):
    """The inputs with batch, channels and what follows as one axis N, the last; all contiguous.

    x [T, N]; tail [k-1, N]; h_0 [N]; weight [k, N]; bias [1, N] or [T, N]; lengths [N].
    """

    x: Tensor
    tail: Tensor
    h_0: Tensor
    weight: Tensor
    bias: Tensor
    lengths: Tensor | None
    m: float


def columns(inputs: DSNInputs) -> DSNColumns:
    """Every parameter and state beside the columns that it is for."""
    x, tail, h_0, weight, bias, lengths, m = inputs
    assert tail is not None
    assert h_0 is not None
    shape = x.shape[1:]
    steps, step = x.shape[0], math.prod(shape)
    one = (shape[1], *(1,) * (len(shape) - 2))  # [C] over [B, C, ...]
    taps = weight.shape[1]
    logit = bias.view(one).expand(1, *shape).reshape(1, step) if bias.dim() == 1 else bias.reshape(steps, step)
    return DSNColumns(
        x.reshape(steps, step).contiguous(),
        tail.transpose(0, 1).reshape(tail.shape[1], step).contiguous(),
        h_0.reshape(step).contiguous(),
        weight.t().reshape(taps, 1, *one).expand(taps, *shape).reshape(taps, step).contiguous(),
        logit.contiguous(),
        None if lengths is None else lengths.view(shape[0], *(1,) * (len(shape) - 1)).expand(shape).reshape(step),
        m,
    )


def last_inputs(inputs: DSNInputs) -> Tensor:
    """The tail after x; no view."""
    x, tail, lengths = inputs.x, inputs.tail, inputs.lengths
    assert tail is not None
    steps, reach = x.shape[0], tail.shape[1]
    if lengths is None and torch.compiler.is_compiling():  # for any number of steps
        return (
            torch.cat((tail, x.transpose(0, 1)), 1).narrow(1, steps, reach).clone(memory_format=torch.contiguous_format)
        )
    if lengths is None or not reach:
        recent = x[max(0, steps - reach) :].transpose(0, 1)
        if steps < reach:
            return torch.cat((tail[:, steps:], recent), 1)
        return recent.clone(memory_format=torch.contiguous_format)
    t = lengths + torch.arange(-reach, 0, device=x.device).unsqueeze(1)  # < 0: in the old tail
    batch = torch.arange(x.shape[1], device=x.device)
    new = x[t.clamp(min=0), batch]
    old = tail[batch, (t + reach).clamp(0, reach - 1)]
    last = torch.where((t >= 0).view(*t.shape, *(1,) * (x.dim() - 2)), new, old)
    return last.transpose(0, 1).clone(memory_format=torch.contiguous_format)
