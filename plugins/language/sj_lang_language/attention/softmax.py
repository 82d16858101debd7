"""Causal softmax attention with growing keys and values: what the ANN twin has in the place of the spiking one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def causal_softmax(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None, state: dict[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """softmax(Q K^T / sqrt(K)) V over the valid tokens up to each token.

    q, k, v: `[B, H, L, K]`. valid: `[B, L]` bool, None for all. state: {"k", "v": `[B, H, before, K]`, "valid":
    `[B, before]`} of the tokens before these. Returns O `[B, H, L, K]` and the state with these tokens added; the
    given state is left as it is. Outputs at tokens that are not valid are finite and mean nothing.
    """
    plain = valid is None and state is None
    if valid is None:
        valid = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
    if state is not None:
        k = torch.cat([state["k"], k], dim=2)
        v = torch.cat([state["v"], v], dim=2)
        valid = torch.cat([state["valid"], valid], dim=1)
    allowed = None if plain else _allowed(valid, q.shape[2])
    out = scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=plain)
    return out, {"k": k, "v": v, "valid": valid}


def _allowed(valid: Tensor, queries: int) -> Tensor:
    """Which keys each of the last `queries` tokens sees, `[B, 1, queries, keys]`."""
    keys = valid.shape[1]
    past = torch.ones(queries, keys, dtype=torch.bool, device=valid.device).tril(keys - queries)
    itself = torch.eye(keys, dtype=torch.bool, device=valid.device)[keys - queries :]
    # a masked token still sees itself: a row without any key would be NaN
    return (past & valid[:, None, :] | itself)[:, None]
