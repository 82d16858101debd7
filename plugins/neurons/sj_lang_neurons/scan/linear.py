"""The linear recurrence as users call it: inputs checked, and the backend chosen."""

import torch
from torch import Tensor

from sj_lang import cpu
from sj_lang.errors import choices
from sj_lang_neurons.scan.numba import scan_numba
from sj_lang_neurons.scan.torch import scan_torch

SCAN_BACKENDS = ("auto", "torch", "numba")


def linear_scan(
    decay: Tensor, drive: Tensor, h_0: Tensor | None = None, *, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t with h_{-1} = h_0; in reverse from h_{t+1}, with h_T = h_0.

    decay: [T, ...], or [1, ...] for one decay at all steps; its other axes may be 1 even if the
    drive's are not. drive: [T, ...], T >= 1. h_0: [...], None for zeros. backend: "torch", "numba"
    on the CPU, or "auto", which takes numba if it can.

    Returns h [T, ...] of the drive's shape, computed in float32, in float64 if one of the three is
    float64. All three get gradients. Raises ValueError for shapes that do not fit, tensors on
    several devices and an unknown backend, TypeError for complex numbers, RuntimeError if the
    requested backend cannot run.
    """
    if drive.dim() < 1 or drive.shape[0] == 0:
        raise ValueError(f"linear_scan: the drive is [T, ...] with T >= 1, got shape {tuple(drive.shape)}")
    tensors = (decay, drive) if h_0 is None else (decay, drive, h_0)
    if any(x.is_complex() for x in tensors):
        raise TypeError(f"linear_scan: expected real numbers, got {', '.join(str(x.dtype) for x in tensors)}")
    if backend not in SCAN_BACKENDS:
        raise ValueError(f"linear_scan: no backend {backend!r}; {choices(backend, SCAN_BACKENDS)}")
    if any(x.device != drive.device for x in tensors):
        raise ValueError(
            f"linear_scan: expected tensors on one device, got {', '.join(str(x.device) for x in tensors)}"
        )
    shape = drive.shape[1:]
    fits = decay.dim() == drive.dim() and decay.shape[0] in (1, drive.shape[0])
    if not fits or any(a not in (1, n) for a, n in zip(decay.shape[1:], shape, strict=True)):
        raise ValueError(
            f"linear_scan: the decay must be [T, ...] or [1, ...] for a drive of shape {tuple(drive.shape)}, "
            f"got {tuple(decay.shape)}"
        )
    if h_0 is not None and h_0.shape != shape:
        raise ValueError(f"linear_scan: h_0 must have shape {tuple(shape)}, got {tuple(h_0.shape)}")
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    width = shape.numel()
    a = decay.to(dtype).expand(decay.shape[0], *shape).reshape(decay.shape[0], width)
    u = drive.to(dtype).reshape(drive.shape[0], width)
    h = u.new_zeros(width) if h_0 is None else h_0.to(dtype).reshape(width)
    reason = cpu.why_not(u) if backend != "torch" else ""
    if backend == "numba" and reason:
        raise RuntimeError(f'linear_scan: backend "numba" {reason}')
    run = scan_torch if backend == "torch" or reason else scan_numba
    return run(a, u, h, reverse).view(drive.shape)  # type: ignore[no-any-return]
