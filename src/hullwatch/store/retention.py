"""How much history is kept: by size and by age, oldest first; findings stay longer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from hullwatch.store import clock
from hullwatch.store.segments import listing
from hullwatch.store.state import State

__all__ = ["Limits", "retain"]

DAY = 86_400


class Limits(NamedTuple):
    """max_bytes: events on disk. Ages in seconds; 0 = no limit."""

    max_bytes: int = 10 << 30
    max_age: int = 30 * DAY
    findings_age: int = 365 * DAY


def retain(state: State, root: Path, limits: Limits) -> int:
    """Remove what is over the limits; returns the number of segments removed.

    Age is time lived by the store (see clock.py), so a step of the wall clock removes nothing.
    """
    held = listing(state.link, ("sealed", "live"))
    lived = clock.advance(state.last_reading(), clock.now()).lived
    total = sum(segment.bytes for segment in held)
    gone = []
    for segment in held:
        old = limits.max_age and lived - segment.lived > limits.max_age * 10**9
        if not old and not (limits.max_bytes and total > limits.max_bytes):
            break
        gone.append(segment)
        total -= segment.bytes
    with state.transaction() as link:
        for segment in gone:
            link.execute("DELETE FROM segments WHERE seq=?", (segment.seq,))
        _retain_rows(state, limits, time.time_ns())
    for segment in gone:
        segment.path(root).unlink(missing_ok=True)
    return len(gone)


def _retain_rows(state: State, limits: Limits, wall: int) -> None:
    """Rows carry wall times; they go only once the store itself has lived that long."""
    lived = clock.advance(state.last_reading(), clock.now()).lived
    if not limits.findings_age or lived < limits.findings_age * 10**9:
        return
    limit = wall - limits.findings_age * 10**9
    for table, column in (
        ("findings", "last"),
        ("losses", "last"),
        ("counts", "last"),
        ("notices", "time"),
        ("workloads", "updated"),
        ("calls", "begun"),
        ("call_sets", "seen"),
    ):
        state.link.execute(f"DELETE FROM {table} WHERE {column} < ?", (limit,))
