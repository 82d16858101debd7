"""Attention without softmax; if causal, with linear memory and a state of constant size.

    O_t = sum_{s <= t} (Q_t . K_s) V_s = Q_t S_t,      S_t = S_{t-1} + K_t^T V_t

Tokens are attended to in chunks: by the left form, `tril(Q K^T) V`, inside a chunk, and by the
right one, `Q S`, across chunks. Memory is O(L (chunk + K^2 / chunk)) per head.

With spikes all terms are integers, so in float32 the result equals the masked quadratic form to the
last bit as long as sums stay below 2^24 (length times the square of the largest spike times K); no
order of summation can change it.

With a decay g_t in (0, 1] for each token and head, S_t = g_t S_{t-1} + K_t^T V_t. Inside a chunk
the scores are multiplied by prod_{s < r <= t} g_r, of which all factors are at most 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sj_lang.operators import is_exporting


def causal_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend each token to itself and the tokens before it, without softmax and without scale.

    q, k, v: `[..., L, K]`; a masked token has k = 0. state: S after the tokens before these,
    `[..., K, K]`, None for none. chunk: tokens of a chunk; None: `chosen_chunk`. log_decay: log g,
    `[..., L]`, 0 at a masked token; None: no decay. Returns O `[..., L, K]` and S after these
    tokens. Arithmetic is in float32 or float64, also under autocast: bfloat16 cannot count beyond
    256.
    """
    length = q.shape[-2]
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        past = None if log_decay is None else log_decay.to(dtype)
        if is_exporting():  # an exported length is open
            return _one_chunk(q, k, v, state, past)
        chunk = chosen_chunk(length) if chunk is None else chunk
        if length <= chunk:
            return _one_chunk(q, k, v, state, past)
        return _many_chunks(q, k, v, state, chunk, past)


def chosen_chunk(length: int) -> int:
    """Tokens of a chunk: what was fastest in a training step on the CPU."""
    return 128 if length <= 128 else 64


def whole_linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q K^T) V over all tokens, in the cheaper order; arguments as in `causal_linear`."""
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        return q @ (k.mT @ v) if is_exporting() or q.shape[-2] > q.shape[-1] else (q @ k.mT) @ v


def _one_chunk(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, log_decay: Tensor | None
) -> tuple[Tensor, Tensor]:
    if not is_exporting() and q.shape[-2] == 1:
        memory = k.mT @ v
        if state is not None:
            memory = memory + (state if log_decay is None else state * log_decay.exp().unsqueeze(-1))
        return q @ memory, memory
    inside = _Inside(log_decay)
    memory, out = inside.to_end(k).mT @ v, inside.scores(q @ k.mT) @ v
    if state is None:
        return out, memory
    return out + inside.from_start(q) @ state, memory + inside.whole(state)


def _many_chunks(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk: int, log_decay: Tensor | None
) -> tuple[Tensor, Tensor]:
    length = q.shape[-2]
    count = -(-length // chunk)
    more = count * chunk - length
    # zeros at the end: they add nothing to S, let it as it is, and their outputs are cut off
    q, k, v = (torch.unflatten(pad(x, (0, 0, 0, more)), -2, (count, chunk)) for x in (q, k, v))
    inside = _Inside(None if log_decay is None else torch.unflatten(pad(log_decay, (0, more)), -1, (count, chunk)))
    added = inside.to_end(k).mT @ v  # [..., count, K, K]
    first = torch.zeros_like(added[..., :1, :, :]) if state is None else state.unsqueeze(-3).to(added.dtype)
    if log_decay is None:
        after = added.cumsum(-3) if state is None else added.cumsum(-3) + first
    else:
        states, memory = [], first
        for place in range(count):
            one = slice(place, place + 1)
            memory = added[..., one, :, :] + inside.whole(memory, one)
            states.append(memory)
        after = torch.cat(states, dim=-3)
    before = torch.cat([first, after[..., :-1, :, :]], dim=-3)
    out = inside.scores(q @ k.mT) @ v + inside.from_start(q) @ before
    return out.flatten(-3, -2)[..., :length, :], after[..., -1, :, :]


class _Inside:
    """The decays between the tokens of a chunk. log_decay: `[..., C]`; None: there is none."""

    def __init__(self, log_decay: Tensor | None) -> None:
        self.since_start = None if log_decay is None else log_decay.cumsum(-1)

    def scores(self, scores: Tensor) -> Tensor:
        """Scores `[..., C, C]` of each token and those up to it, decayed between the two."""
        scores = scores.tril()
        if self.since_start is None:
            return scores
        # no token after the query: exp of a positive sum could overflow
        between = (self.since_start.unsqueeze(-1) - self.since_start.unsqueeze(-2)).clamp_max(0)
        return scores * between.exp()

    def from_start(self, x: Tensor) -> Tensor:
        """x `[..., C, K]` times the decay from the start of the chunk to each token."""
        return x if self.since_start is None else x * self.since_start.exp().unsqueeze(-1)

    def to_end(self, x: Tensor) -> Tensor:
        """x `[..., C, K]` times the decay from each token to the end of the chunk."""
        if self.since_start is None:
            return x
        return x * (self.since_start[..., -1:] - self.since_start).exp().unsqueeze(-1)

    def whole(self, state: Tensor, chunks: slice | None = None) -> Tensor:
        """A state `[..., K, K]` times the decay of the whole chunk, or of the chunks chosen."""
        if self.since_start is None:
            return state
        since = self.since_start if chunks is None else self.since_start[..., chunks, :]
        return state * since[..., -1:].exp().unsqueeze(-1)
