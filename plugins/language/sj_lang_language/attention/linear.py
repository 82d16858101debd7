"""Attention without softmax; if causal, with linear memory and a state of constant size.

    O_t = sum_{s <= t} (Q_t . K_s) V_s = Q_t S_t,      S_t = S_{t-1} + K_t^T V_t

Tokens are attended to in chunks: by the left form, `tril(Q K^T) V`, inside a chunk, and by the
right one, `Q S`, across chunks. Memory is O(L (chunk + K^2 / chunk)) per head.

With spikes all terms are integers, so in float32 the result equals the masked quadratic form to the
last bit as long as sums stay below 2^24 (length times the square of the largest spike times K); no
order of summation can change it.
"""

import torch
from torch import Tensor

from sj_lang.operators import is_exporting


def causal_linear(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Attend each token to itself and the tokens before it, without softmax and without scale.

    q, k, v: `[..., L, K]`; a masked token has k = 0. state: S after the tokens before these,
    `[..., K, K]`, None for none. Returns O `[..., L, K]` and S after these tokens. Arithmetic is in
    float32 or float64, also under autocast: bfloat16 cannot count beyond 256.
    """
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if is_exporting() or q.shape[-2] <= chunk:  # an exported length is open
            return _one_chunk(q, k, v, state)
        return _many_chunks(q, k, v, state, chunk)


def whole_linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q K^T) V over all tokens, in the cheaper order; arguments as in `causal_linear`."""
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        return q @ (k.mT @ v) if is_exporting() or q.shape[-2] > q.shape[-1] else (q @ k.mT) @ v


def _one_chunk(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    memory = k.mT @ v
    if not is_exporting() and q.shape[-2] == 1:
        memory = memory if state is None else memory + state
        return q @ memory, memory
    out = (q @ k.mT).tril() @ v
    return (out, memory) if state is None else (out + q @ state, memory + state)


def _many_chunks(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    length = q.shape[-2]
    count = -(-length // chunk)
    # zeros at the end: they add nothing to S and their outputs are cut off
    padded = [torch.nn.functional.pad(x, (0, 0, 0, count * chunk - length)) for x in (q, k, v)]
    q, k, v = (torch.unflatten(x, -2, (count, chunk)) for x in padded)  # [..., count, chunk, K]
    after = (k.mT @ v).cumsum(-3)  # [..., count, K, K], S at the end of each chunk, from zero
    if state is not None:
        after = after + state.unsqueeze(-3)
    first = torch.zeros_like(after[..., :1, :, :]) if state is None else state.unsqueeze(-3).to(after.dtype)
    before = torch.cat([first, after[..., :-1, :, :]], dim=-3)
    out = (q @ k.mT).tril() @ v + q @ before
    return out.flatten(-3, -2)[..., :length, :], after[..., -1, :, :]
