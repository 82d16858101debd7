"""Memory through which the blocks of a split sequence hand states on: `chain.cuh` in Python."""

import torch
from torch import Tensor

COUNTERS = 1_024  # words, before those that travel
MOST_GROUPS = 2 * COUNTERS - 2  # of columns, each of which has a counter of half a word

_KEPT: dict[tuple[torch.device, int], Tensor] = {}


def words(links: int, tiles: int, columns: int, states: torch.dtype) -> int:
    """How many words of 64 bits a launch needs that hands on so many numbers after each tile."""
    return COUNTERS + links * tiles * columns * (states.itemsize // 4)


def memory(size: int, device: torch.device) -> Tensor | None:
    """So many words: zeros, or what an earlier launch on this stream left there. None for 0 words.

    Launches on one stream do not overlap. A graph may be replayed beside others of its stream, so
    a launch that is captured gets zeros of its own, which each replay writes anew.
    """
    if not size:
        return None
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros(size, dtype=torch.int64, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
    kept = _KEPT.get((device, stream))
    if kept is None or len(kept) < size:
        kept = _KEPT[device, stream] = torch.zeros(size, dtype=torch.int64, device=device)
    return kept
