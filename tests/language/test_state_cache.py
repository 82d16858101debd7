"""The cache: states by layer, moved with the batch, replaced and never changed in place."""

from __future__ import annotations

import pytest
import torch

from sj_lang.state_cache import StateCache


@pytest.fixture
def cache() -> StateCache:
    held = StateCache(2)
    held.write(0, {"v": torch.arange(6.0).view(3, 2)}, 4)
    held.write(1, {"h": torch.arange(3), "kv": torch.ones(3, 2, 2)}, 4)
    return held


def test_read_gives_what_was_written(cache: StateCache) -> None:
    assert StateCache(2).read(0) is None
    assert set(cache.read(1) or {}) == {"h", "kv"}
    assert cache.get_seq_length() == 4
    assert cache.batch_size == 3
    assert StateCache(1).batch_size == -1
    assert cache.numel == 6 + 3 + 12
    cache.write(0, {"v": torch.zeros(3, 2)}, 2)
    assert cache.get_seq_length() == 6


def test_a_state_that_was_read_stays_good(cache: StateCache) -> None:
    state = cache.read(0)
    assert state is not None
    cache.batch_select_indices(torch.tensor([2]))
    cache.reset()
    assert torch.equal(state["v"], torch.arange(6.0).view(3, 2))


def test_rows_move_together(cache: StateCache) -> None:
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert torch.equal((cache.read(0) or {})["v"][:, 0], torch.tensor([4.0, 0.0, 0.0]))
    assert torch.equal((cache.read(1) or {})["h"], torch.tensor([2, 0, 0]))
    cache.batch_repeat_interleave(2)
    assert (cache.read(1) or {})["h"].tolist() == [2, 2, 0, 0, 0, 0]
    assert cache.batch_size == 6


def test_reset_forgets(cache: StateCache) -> None:
    cache.reset()
    assert cache.read(0) is None
    assert cache.get_seq_length() == 0
    assert cache.numel == 0


def test_what_states_cannot_do_is_refused(cache: StateCache) -> None:
    with pytest.raises(ValueError, match="cannot be rolled back"):
        cache.crop(1)
    with pytest.raises(TypeError, match=r"use read\(\) and write\(\)"):
        cache.update(torch.ones(1), torch.ones(1), 0)
