"""The cache takes memory as tokens come, and says so when it cannot."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from lattice_live.node.cache import Cache
from tests.require import require

STATM = Path("/proc/self/statm")


def test_a_token_takes_no_memory_for_those_that_may_follow_it() -> None:
    require(STATM.exists(), "/proc/self/statm")
    heads, room, width = 2, 65_536, 16  # 8 MiB a row of each array, of which a token is 128 bytes
    cache = Cache(2, (4, heads, room, width), np.float32)
    before = resident_bytes()
    for array in cache._arrays.values():
        array[:, :, 0] = 1.0
    assert resident_bytes() - before < 8 << 20


@pytest.mark.parametrize("room", [1 << 50, 1 << 70])
def test_a_cache_beyond_all_memory_is_a_memory_error(room: int) -> None:
    with pytest.raises(MemoryError):
        Cache(2, (4, 2, room, 16), np.float32)


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE
