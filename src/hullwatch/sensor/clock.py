"""How far the wall clock is from CLOCK_BOOTTIME, read so that being interrupted does no harm."""

from __future__ import annotations

import time

__all__ = ["read_offset"]

_TRIES = 8


def read_offset() -> tuple[int, int]:
    """(unix time less CLOCK_BOOTTIME, how wrong it may be), ns: of a few readings the closest.

    Whoever is interrupted between reading one clock and the other is off by as long as that took.
    """
    best, bound = 0, 1 << 62
    for _ in range(_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if after - before < bound:
            best, bound = wall - (before + after) // 2, after - before
        if bound < 2_000:
            break
    return best, bound
