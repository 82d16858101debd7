"""The linear recurrence as one torch operator with a hand-written backward, in plain torch, for every device.

Time and memory are O(T): forward and backward each pass once over the data, in blocks that stay in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sj_lang import cpu
from sj_lang.errors import choices
from sj_lang.operators import operator
from sj_lang_neurons.scan import torch_blocks as rows
from sj_lang_neurons.scan.numba import scan as compiled
from sj_lang_neurons.scan.operator import complete
from sj_lang_neurons.scan.torch_blocks import Rows

BACKENDS = ("auto", "torch", "numba")
BLOCK = 1 << 20  # elements of a block: four arrays of it stay in the third-level cache


def linear_scan(
    decay: Tensor, drive: Tensor, h_0: Tensor | None = None, *, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t for all t, h_{-1} = h_0; in reverse h_t = decay_t h_{t+1} + drive_t, h_T = h_0.

    decay: [T, ...], or [1, ...] for one decay at all steps; its other axes may be 1 where the drive's are not.
    drive: [T, ...], T >= 1. h_0: [...], None for zeros.
    backend: "torch", "numba" on the CPU, or "auto", which takes numba where it can.
    Returns h [T, ...] of the drive's shape, computed in float32, in float64 if one of the three is float64.
    All three get gradients. Raises ValueError for shapes that do not fit, tensors on several devices and an unknown
    backend, TypeError for complex numbers, RuntimeError where the backend asked for cannot run.
    """
    if drive.dim() < 1 or drive.shape[0] == 0:
        raise ValueError(f"linear_scan: the drive is [T, ...] with T >= 1, got shape {tuple(drive.shape)}")
    given = (decay, drive) if h_0 is None else (decay, drive, h_0)
    if any(x.is_complex() for x in given):
        raise TypeError(f"linear_scan: takes real numbers, got {', '.join(str(x.dtype) for x in given)}")
    if backend not in BACKENDS:
        raise ValueError(f"linear_scan: no backend {backend!r}; {choices(backend, BACKENDS)}")
    if any(x.device != drive.device for x in given):
        raise ValueError(f"linear_scan: takes tensors of one device, got {', '.join(str(x.device) for x in given)}")
    shape = drive.shape[1:]
    fits = decay.dim() == drive.dim() and decay.shape[0] in (1, drive.shape[0])
    if not fits or any(a not in (1, n) for a, n in zip(decay.shape[1:], shape, strict=True)):
        raise ValueError(
            f"linear_scan: the decay must be [T, ...] or [1, ...] for a drive of shape {tuple(drive.shape)}, "
            f"got {tuple(decay.shape)}"
        )
    if h_0 is not None and h_0.shape != shape:
        raise ValueError(f"linear_scan: h_0 must have shape {tuple(shape)}, got {tuple(h_0.shape)}")
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in given) else torch.float32
    width = shape.numel()
    a = decay.to(dtype).expand(decay.shape[0], *shape).reshape(decay.shape[0], width)
    u = drive.to(dtype).reshape(drive.shape[0], width)
    h = u.new_zeros(width) if h_0 is None else h_0.to(dtype).reshape(width)
    reason = cpu.why_not(u) if backend != "torch" else ""
    if backend == "numba" and reason:
        raise RuntimeError(f'linear_scan: backend "numba" {reason}')
    run = _scan if backend == "torch" or reason else compiled
    return run(a, u, h, reverse).view(drive.shape)  # type: ignore[no-any-return]


@operator("sj_lang::linear_scan")
def _scan(a: Tensor, u: Tensor, h_0: Tensor, reverse: bool) -> Tensor:
    """a [T, N] or [1, N], u [T, N], h_0 [N], of one dtype -> h [T, N]."""
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    h = h_0
    for block in _blocks(u, reverse):
        h = rows.scan(Rows(_at(a, block)), Rows(u[block]), h, Rows(out[block]), reverse=reverse)
        h = torch.hardshrink(h, torch.finfo(h.dtype).tiny)
    return out


@operator("sj_lang::linear_scan_backward")
def _scan_backward(grad: Tensor, a: Tensor, h: Tensor, h_0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same recurrence, the other way, with the decays shifted by a step. Gradients of a, u and h_0."""
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
            rows.scan(decays, Rows(g[inner]), out[first], Rows(out[inner]), reverse=not reverse)
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


complete(_scan, _scan_backward)


def _blocks(x: Tensor, backwards: bool) -> list[slice]:
    blocks = rows.pieces(0, len(x), rows.block_rows(x, BLOCK))
    return blocks[::-1] if backwards else blocks


def _at(a: Tensor, block: slice) -> Tensor:
    return a if len(a) == 1 else a[block]
