"""DSN's torch operator, which works on flat arrays, in the terms that all kernels of the node share."""

from __future__ import annotations

import torch
from torch import Tensor

from sj_lang_neurons.dsn.torch import dsn as run
from sj_lang_neurons.firing import Firing


def dsn(
    x: Tensor,
    tail: Tensor,
    h_0: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    *,
    m: float,
    firing: Firing,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Spikes of a whole sequence, the potential after its last valid step, the last k - 1 valid inputs, and all
    potentials if it needed them.

    x [T, B, C, ...]; tail [B, k-1, C, ...], the inputs before it; h_0 [B, C, ...]; weight [C, k], the taps, the oldest
    input first; bias [C] or [T, B, C, ...]; all float32, or float64. k = 0, and no tail, for a logit that is the bias.
    lengths [B] int64: the valid steps, which come first; None: all. m: 1 / tau. firing: see there.
    """
    n = 0 if firing.potentials else firing.levels
    out, h = run(*columns(x, tail, h_0, weight, bias, lengths), m=m, n=n)
    out, h, after = out.view(x.shape), h.view(h_0.shape).clone(), last_inputs(x, tail, lengths)
    return (out, h, after, None) if n else (firing(out), h, after, out)


def last_inputs(x: Tensor, tail: Tensor, lengths: Tensor | None) -> Tensor:
    """The tail after x; no view."""
    steps, reach = x.shape[0], tail.shape[1]
    if lengths is None or not reach:
        recent = x[max(0, steps - reach) :].transpose(0, 1)
        return torch.cat((tail[:, steps:], recent), 1)
    t = lengths + torch.arange(-reach, 0, device=x.device).unsqueeze(1)  # [k-1, B], negative: in the old tail
    batch = torch.arange(x.shape[1], device=x.device)
    new = x[t.clamp(min=0), batch]
    old = tail[batch, (t + reach).clamp(0, reach - 1)]
    last = torch.where((t >= 0).view(*t.shape, *(1,) * (x.dim() - 2)), new, old)
    return last.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def columns(
    x: Tensor, tail: Tensor, h_0: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The inputs of `dsn` with batch, channels and whatever follows them as one axis N, the last; all contiguous.

    x [T, N]; tail [k-1, N]; h_0 [N]; weight [k, N]; bias [1, N] or [T, N]; lengths [N].
    """
    shape = x.shape[1:]
    step = shape.numel()
    one = (shape[1], *(1,) * (len(shape) - 2))  # [C] over [B, C, ...]
    taps = weight.shape[1]
    return (
        x.reshape(len(x), step).contiguous(),
        tail.transpose(0, 1).reshape(tail.shape[1], step).contiguous(),
        h_0.reshape(step).contiguous(),
        weight.t().reshape(taps, 1, *one).expand(taps, *shape).reshape(taps, step).contiguous(),
        (
            bias.view(one).expand(1, *shape).reshape(1, step) if bias.dim() == 1 else bias.reshape(len(x), step)
        ).contiguous(),
        None if lengths is None else lengths.view(shape[0], *(1,) * (len(shape) - 1)).expand(shape).reshape(step),
    )
