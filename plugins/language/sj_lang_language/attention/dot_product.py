"""Softmax attention by torch's fused function, causal with a state or over the whole text."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sj_lang.masks import State

#: Keys up to which torch's flash kernel for the CPU is slower than its plain form in a training
#: step in half precision: 8 times at 40 keys, 1.6 times at 128 (torch 2.14, one core of a Xeon).
SHORT = 128


def causal_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None = None,
    state: State | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, State]:
    """softmax(Q K^T scale) V over the valid tokens up to each token.

    q, k, v: `[B, H, L, K]` or `[B, T, H, L, K]`. valid: `[B, L]` bool, None for all. state: {"k",
    "v": like k with the tokens before these, "valid": `[B, before]`}. scale: None: 1 / sqrt(K).
    Returns O, shaped as q, and a new state. At tokens that are not valid, O is finite and means
    nothing.
    """
    plain = valid is None and state is None
    if valid is None:
        valid = torch.ones(k.shape[0], k.shape[-2], dtype=torch.bool, device=k.device)
    if state is not None:
        k = torch.cat([state["k"], k], dim=-2)
        v = torch.cat([state["v"], v], dim=-2)
        valid = torch.cat([state["valid"], valid], dim=1)
    allowed = None if plain else _up_to_each(valid, q.shape[-2])
    out = _attend(q, k, v, allowed, causal=plain, scale=scale, dropout=dropout)
    return out, {"k": k, "v": v, "valid": valid}


def whole_softmax(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None, *, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(Q K^T scale) V over all valid tokens; arguments as for `causal_softmax`."""
    # a text without any valid token sees all of it: rows without a key would be NaN
    allowed = None if valid is None else (valid | ~valid.any(1, keepdim=True))[:, None, None]
    return _attend(q, k, v, allowed, causal=False, scale=scale, dropout=dropout)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, *, causal: bool, scale: float | None, dropout: float
) -> Tensor:
    """allowed: `[B, 1, queries or 1, keys]`."""
    shape = q.shape
    if q.dim() == 5:  # the fused kernels take 4 axes
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        allowed = None if allowed is None else allowed.repeat_interleave(shape[1], dim=0)
    with _kernel(q, k):
        out = scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, scale=scale, dropout_p=dropout)
    return out.reshape(shape)


def _kernel(q: Tensor, k: Tensor) -> AbstractContextManager[None]:
    """Torch's choice, but for short sequences trained in half precision on the CPU."""
    if q.device.type != "cpu" or k.shape[-2] > SHORT or torch.compiler.is_compiling():
        return nullcontext()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    if dtype in (torch.float16, torch.bfloat16) and torch.is_grad_enabled() and q.requires_grad:
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain
    return nullcontext()


def _up_to_each(valid: Tensor, queries: int) -> Tensor:
    """The keys that each of the last `queries` tokens sees, a mask `[B, 1, queries, keys]`."""
    keys = valid.shape[1]
    key = torch.arange(keys, device=valid.device)
    query = key[keys - queries :, None]
    # a masked token still sees itself: a row without any key would be NaN
    return ((key < query) & valid[:, None, :] | (key == query))[:, None]
